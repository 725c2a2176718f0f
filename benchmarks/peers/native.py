"""Echo servers in other languages: what the same machine does without Python. They are built by
`make -C benchmarks peers`, and left out with a sentence where they have not been.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from benchmarks.peers import Row
from benchmarks.process import Server, free_port

__all__ = ["rows", "serve"]

HERE = Path(__file__).parent
RUST = HERE.parent / "build" / "rust" / "release"
NODE = HERE / "node"
HOW = "build them with `make -C benchmarks peers`, which needs cargo and npm"


class Skips(Protocol):
    def skip(self, sentence: str) -> None: ...


def rust(name: str) -> Callable[[int], list[str]]:
    """The command of a Rust server."""
    return lambda port: [str(RUST / name), str(port)]


def node(port: int) -> list[str]:
    """The command of Node's ws."""
    return [shutil.which("node") or "", str(NODE / "serve.js"), str(port)]


SERVERS: dict[str, tuple[Path, Callable[[int], list[str]]]] = {
    "Rust wtx": (RUST / "wtx-echo", rust("wtx-echo")),
    "Rust tokio-tungstenite": (RUST / "tungstenite-echo", rust("tungstenite-echo")),
    "Node ws": (NODE / "node_modules" / "ws" / "package.json", node),
}


def rows(plan: Skips) -> list[Row]:
    """Those that have been built."""
    missing = [name for name, (built, _) in SERVERS.items() if not built.exists()]
    if missing:
        plan.skip(f"Not built, not measured: {', '.join(missing)}; {HOW}.")
    return [Row(name, "native", "") for name in SERVERS if name not in missing]


def serve(row: Row) -> Server:
    """The row's server, about to listen."""
    port = free_port()
    return Server(SERVERS[row.name][1](port), port)

"""What mkdocs needs to know of this repository: pages that lie outside of docs/, and where links between them lead.

In the repository links are paths, so that they work in a clone; `resolve` says where each of them lies on the site. A
link to what is not there (a test, a folder) keeps its words alone.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).parent.parent

#: Files of the repository, and their page.
ABOUT = {
    f"{name}.md": f"about/{name.lower()}.md" for name in ("README", "CHANGELOG", "CONTRIBUTING", "SECURITY")
} | {"benchmarks/README.md": "about/benchmarks.md"}
HOMES = {page: path for path, page in ABOUT.items()}


def on_files(files: Any, config: Any) -> Any:
    """Adds what lies outside of docs/."""
    for path, page in ABOUT.items():
        files.append(File.generated(config, page, content=(ROOT / path).read_text(encoding="utf-8")))
    for path in sorted([*ROOT.glob("examples/*.py"), *ROOT.glob("benchmarks/results/*.svg")]):
        there = path.relative_to(ROOT).as_posix()
        files.append(File.generated(config, there, content=path.read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Leads the links of a page to other pages."""
    here = page.file.src_uri
    home = HOMES.get(here, f"docs/{here}")

    def lead(link: re.Match[str]) -> str:
        words, target, anchor = link.groups(default="")
        found = resolve(posixpath.normpath(posixpath.join(posixpath.dirname(home), target)))
        if files.get_file_from_path(found) is None:
            return words
        return f"[{words}]({posixpath.relpath(found, posixpath.dirname(here) or '.')}{anchor})"

    return re.sub(r"\[([^\]]*)\]\((?!\w+:)([^)#\s]+)(#[^)\s]*)?\)", lead, markdown)


def resolve(path: str) -> str:
    """Where a path of the repository lies on the site."""
    return ABOUT.get(path, path.removeprefix("docs/"))

"""A reader thread and a writer thread on one blocking connection, with no lock between them."""

from __future__ import annotations

import threading

import zcws.sync

COUNT = 1000


def echo(ws: zcws.sync.WebSocket) -> None:
    for message in ws:
        ws.send(message)


def talk(uri: str) -> None:
    reader, writer, bridge = zcws.sync.connect(uri).split()
    done = threading.Event()

    def write() -> None:
        for number in range(COUNT):
            writer.send(str(number))
            writer.drain_bridge()  # what the reader owes, if anything
        done.wait()
        writer.close()

    writing = threading.Thread(target=write)
    writing.start()
    for number, message in enumerate(reader):
        if number == COUNT - 1:
            print("the last of them was", message)
            done.set()
    writing.join()
    print("the bridge has ended:", bridge.listen() is None or writer.drain_bridge())


def main() -> None:
    with zcws.sync.serve(echo, "127.0.0.1", 0) as server:
        threading.Thread(target=server.serve_forever).start()
        talk(f"ws://127.0.0.1:{server.sock.getsockname()[1]}/")


if __name__ == "__main__":
    main()

"""Load and faults: a server in a process of its own, and what must not be noticed by anybody else.

Every test has the same shape: a **witness**, a connection that behaves and asks for an echo again and again; the
fault, on other connections; then three questions:

    what was lost         nothing that was acknowledged: an echo is right, a clean Close comes behind everything
    what others noticed   nothing: every answer to the witness came, in order, while the fault lasted
    until recovery        recorded (`record`, in the test report and in docs/faults.md), never asserted

Servers: asyncio with the engine, asyncio without it, threads. Where the fault is a server's, the clients are ours.
Where it is the network's (test_wire.py), it lies between two namespaces, and the witness is on the server's side.
"""

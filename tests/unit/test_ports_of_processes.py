"""tests/support/ports.py itself: which ports a process listens at, and what a port answers."""

import os
import socket
import subprocess
import sys
import threading

from support.ports import approach, listening

PROGRAM = (
    "import socket, sys; kept = [socket.create_server(('127.0.0.1', 0)) for _ in range(2)]; print(*[k.getsockname()[1] for k in kept], flush=True); input()"
)


def test_listening_finds_the_ports_of_each_process() -> None:
    """Ports of another process and of this one, each with who holds it; a bound socket that does not listen is none."""
    with subprocess.Popen([sys.executable, "-c", PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        theirs = {int(word) for word in other.stdout.readline().split()}
        with socket.create_server(("127.0.0.1", 0)) as mine, socket.socket() as bound:
            bound.bind(("127.0.0.1", 0))
            found = listening([os.getpid(), other.pid])
            assert {port for port, pids in found.items() if pids == {other.pid}} == theirs
            assert mine.getsockname()[1] in found and bound.getsockname()[1] not in found
        other.communicate("\n")
    assert listening([other.pid]) == {}


def test_approach_tells_answers_and_whether_the_connection_was_closed() -> None:
    """A port that answers and closes, then one that answers and waits."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = listener.getsockname()
        done = threading.Event()

        def serve() -> None:
            first, _ = listener.accept()
            first.sendall(b"no " + first.recv(10))
            first.close()
            second, _ = listener.accept()
            second.sendall(b"yes?")
            done.wait(10)
            second.close()

        thread = threading.Thread(target=serve)
        thread.start()
        refused = approach(address, b"x")
        assert refused.data == b"no x" and refused.closed_after_s is not None and refused.closed_after_s < 1
        assert approach(address, b"x", timeout_s=0.2) == type(refused)(b"yes?", None)
        done.set()
        thread.join()

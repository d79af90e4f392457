"""Which TCP ports processes listen at, as the kernel says, and what a port does with what a stranger sends."""

import os
import re
import socket
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

LISTEN = "0A"
SOCKET = re.compile(r"socket:\[(\d+)\]")


def listening(pids: Iterable[int]) -> dict[int, set[int]]:
    """The TCP ports that the processes listen at, each with the pids that hold it."""
    found: dict[int, set[int]] = {}
    for pid in pids:
        ports = _listeners(pid)
        for inode in _sockets(pid):
            if inode in ports:
                found.setdefault(ports[inode], set()).add(pid)
    return found


def _listeners(pid: int) -> dict[str, int]:
    """Inode to port, of every listening TCP socket in the network that the process sees."""
    found = {}
    for table in ("tcp", "tcp6"):
        try:
            lines = Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]
        except OSError:
            continue  # it has gone, or there is no version 6 here
        for line in lines:
            fields = line.split()
            if fields[3] == LISTEN:
                found[fields[9]] = int(fields[1].rsplit(":", 1)[1], 16)
    return found


def _sockets(pid: int) -> set[str]:
    found = set()
    try:
        for fd in os.listdir(f"/proc/{pid}/fd"):
            match = SOCKET.match(os.readlink(f"/proc/{pid}/fd/{fd}"))
            found |= {match[1]} if match else set()
    except OSError:
        return found
    return found


@dataclass(frozen=True)
class Answer:
    """What a port gave to a stranger."""

    data: bytes
    closed_after_s: float | None


def approach(address: tuple[str, int], payload: bytes, timeout_s: float = 8.0) -> Answer:
    """Connect, send `payload`, and read until the other side closes."""
    received = b""
    started = time.monotonic()
    with socket.create_connection(address, timeout=timeout_s) as connection:
        connection.settimeout(timeout_s)
        try:
            connection.sendall(payload)
            while data := connection.recv(1 << 16):
                received += data
        except TimeoutError:
            return Answer(received, None)
        except OSError:
            pass  # a reset closes, too
    return Answer(received, time.monotonic() - started)

"""The doors of nodes: abstract Unix sockets through which processes of the same user reach a running node. No file is involved, so none is left.

A door's name says whose it is: `ray/UID/SESSION` is a session that `ray.init` started and that ends with its driver;
`ray/UID/cluster/IP:PORT/HEAD/SESSION` is a standing node of the cluster whose head listens at IP:PORT, where HEAD is 1 for the head's own node, else 0.
"""

from __future__ import annotations

import os
from collections import namedtuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

LONGEST = 106
"""Bytes of a name. The kernel takes 107 beside the leading zero, which tools show as @."""
PROGRAMS_OWN = "_own"
"""Ends the session names of nodes that a program started for itself (`ray.cluster_utils`): nobody joins their cluster without being asked to."""
_CLUSTER = "cluster"


class Door(namedtuple("Door", ["name", "session", "head", "is_head"])):
    """A door as its name tells it.

    Attributes:
        name: The socket's name.
        session: Name of the session.
        head: "ip:port" of the cluster's head; "" for a session that is no standing node.
        is_head: Whether it is the head's own node.
    """

    __slots__ = ()

    @property
    def is_programs_own(self) -> bool:
        """Whether a program started the node for itself."""
        return str(self.session).endswith(PROGRAMS_OWN)

    @property
    def age_key(self) -> str:
        """Sorts by the time of the start, the youngest last."""
        return "".join(filter(str.isdigit, self.session))


def _prefix() -> str:
    return f"ray/{os.geteuid()}/"


def name_of(session: str) -> str:
    """Name the door of a session that is no standing node.

    Args:
        session: Its name, the last part of `session_dir`.

    Returns:
        The socket's name.
    """
    return _prefix() + session


def cluster_name(head: str, is_head: bool, session: str) -> str:
    """Name the door of a standing node.

    Args:
        head: "ip:port" of the cluster's head.
        is_head: Whether it is the head's own node.
        session: Name of its session. It is shortened to its digits if there is no room for more.

    Returns:
        The socket's name.
    """
    start = f"{_prefix()}{_CLUSTER}/{head}/{int(is_head)}/"
    if len(start) + len(session) > LONGEST:
        end = PROGRAMS_OWN if session.endswith(PROGRAMS_OWN) else ""
        session = "".join(filter(str.isdigit, session))[: LONGEST - len(start) - len(end)] + end
    return start + session


def parse(name: str) -> Door | None:
    """Read a door's name.

    Args:
        name: Name of an abstract Unix socket, without the leading @.

    Returns:
        The door; None if the socket is none of this user's.
    """
    prefix = _prefix()
    if not name.startswith(prefix):
        return None
    parts = name[len(prefix) :].split("/")
    match parts:
        case [session] if session:
            return Door(name, session, "", False)
        case ["cluster", head, ("0" | "1") as is_head, session] if head and session:
            return Door(name, session, head, is_head == "1")
    return None


def _sort(names: Iterable[str]) -> list[Door]:
    found = [one for one in map(parse, set(names)) if one is not None]
    return sorted(found, key=lambda one: (one.age_key, one.name))


def everything() -> list[Door]:
    """List the doors of this user on this host, the youngest last.

    Raises:
        OSError: /proc can't be read.
    """
    with open("/proc/net/unix") as lines:
        # Connections through a door show under the same name.
        return _sort(name[1:] for line in lines if (name := line.rsplit(" ", 1)[-1].strip()).startswith("@"))


def clusters() -> list[Door]:
    """List the standing nodes of this user on this host, the youngest last.

    Raises:
        OSError: /proc can't be read.
    """
    return [one for one in everything() if one.head]


def pid_behind(name: str) -> int:
    """Give the process that opened a door: the daemon of a node. It need not be able to answer.

    Args:
        name: The door's name.

    Returns:
        Its pid; 0 if nobody is behind the door, or somebody of another user.
    """
    import socket
    import struct

    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as link:
        link.setblocking(False)
        try:
            link.connect(b"\0" + name.encode())
        except BlockingIOError:  # so many wait there already that it takes no more: it is stopped
            return _pid_holding(name)
        except OSError:
            return 0
        try:
            peer = link.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        except OSError:
            return 0
    pid, uid, _ = struct.unpack("3i", peer)
    return pid if uid == os.geteuid() else 0


_LISTENS = 1 << 16  # __SO_ACCEPTCON, among the flags in /proc/net/unix


def _pid_holding(name: str) -> int:
    """Find who holds the listening socket, among the processes whose descriptors this user may see."""
    with open("/proc/net/unix") as lines:
        fields = [line.split() for line in lines]
    targets = {f"socket:[{line[6]}]" for line in fields if line[-1] == f"@{name}" and int(line[3], 16) & _LISTENS}
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            if any(os.readlink(f"/proc/{pid}/fd/{fd}") in targets for fd in os.listdir(f"/proc/{pid}/fd")):
                return int(pid)
        except OSError:  # it ended, or is none of this user's
            continue
    return 0

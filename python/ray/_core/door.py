"""The doors of sessions: abstract Unix sockets through which processes of the same user ask a running session. No file is involved, so none is left."""

from __future__ import annotations

import os


def name_of(session: str) -> str:
    """Name the door of a session.

    Args:
        session: Its name, the last part of `session_dir`.

    Returns:
        The socket's name.
    """
    return f"ray/{os.geteuid()}/{session}"


def sessions() -> list[str]:
    """List the sessions of this user on this host, the youngest last.

    Returns:
        Their names.

    Raises:
        OSError: /proc can't be read.
    """
    prefix = "@" + name_of("")
    with open("/proc/net/unix") as lines:
        names = {line.rsplit(" ", 1)[-1].strip() for line in lines}
    # A name holds the time of its start. Connections through a door show under the same name.
    return sorted(name[len(prefix) :] for name in names if name.startswith(prefix))

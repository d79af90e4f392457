"""The end of standing nodes: ask, wait, and kill what does not listen. A process is held by a descriptor of the kernel, so no other one of the same pid is hit."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time

from ray._core.cluster.door import pid_behind

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

AFTER_KILL_S = 10.0
"""After SIGKILL a process is gone as soon as the kernel has freed its memory."""


class Daemon:
    """A node's daemon: something to wait for and to end."""

    def __init__(self, pid: int, door: str) -> None:
        self.pid = pid
        self.door = door
        try:
            self._fd = os.pidfd_open(pid)
        except ProcessLookupError:
            self._fd = -1
        self._has_ended = self._fd < 0
        self._status: int | None = None

    def close(self) -> None:
        """Let go of it. It goes on."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
            self._has_ended = True

    def is_alive(self) -> bool:
        """Whether it runs."""
        return not self.wait(0.0)

    def wait(self, timeout_s: float | None) -> bool:
        """Wait until it has ended; True if it has.

        Args:
            timeout_s: Seconds to wait at most; None: without limit. A signal handler that raises ends the wait.
        """
        if self._has_ended:
            return True
        poll = select.poll()
        poll.register(self._fd, select.POLLIN)
        if not poll.poll(None if timeout_s is None else max(0, int(timeout_s * 1000))):
            return False
        self._has_ended = True
        with contextlib.suppress(ChildProcessError):  # somebody else's child, or reaped already
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self._status = os.waitstatus_to_exitcode(status) if pid else None
        return True

    @property
    def status(self) -> int | None:
        """Its exit code, negative for a signal; None if it is not known."""
        return self._status

    def ask(self, reason: str) -> None:
        """Ask it to end.

        Raises:
            RuntimeError: It can't be reached.
        """
        from ray import _native

        _native.stop_node(self.door, reason)

    def kill(self) -> None:
        """End it at once."""
        if not self._has_ended:
            try:
                signal.pidfd_send_signal(self._fd, signal.SIGKILL)
            except ProcessLookupError:
                return


def daemon_behind(name: str) -> Daemon | None:
    """Take hold of the daemon behind a door; None if there is none any more."""
    pid = pid_behind(name)
    if not pid:
        return None
    found = Daemon(pid, name)
    if pid_behind(name) != pid:  # it ended meanwhile, and the number may be somebody else's
        found.close()
        return None
    return found


def end(daemons: Iterable[Daemon], reason: str, grace_s: float, force: bool = False) -> list[Daemon]:
    """End nodes.

    Args:
        daemons: Those of the nodes. A head goes after its nodes, in a call of its own, so that they can say goodbye.
        reason: Why; processes that depend on the node are told.
        grace_s: Seconds that they get before they are killed.
        force: Kill them at once.

    Returns:
        Those that had to be killed.
    """
    waiting = list(daemons)
    deadline = time.monotonic() + grace_s
    for one in waiting if not force else ():
        try:
            one.ask(reason)
        except RuntimeError:
            continue  # it does not listen: killed when its time is over, unless it is ending already
    killed = [one for one in waiting if force or not one.wait(max(0.0, deadline - time.monotonic()))]
    for one in killed:
        one.kill()
    for one in killed:
        one.wait(AFTER_KILL_S)
    return killed

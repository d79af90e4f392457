"""The threads of local mode: helpers that run calls nobody waits for in place, and the keeper, which sees to it that no call is left lying.

A call that nobody has taken for `PATIENCE_S` is started in a helper: programs that start a call and then look for its effects go on as on a cluster. While the
main thread sits in a debugger the keeper holds back, so that two prompts don't compete for one terminal.
"""

from __future__ import annotations

import contextvars
import queue
import sys
import threading

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from ray._core.local.calls import Call

PATIENCE_S = 0.05
IDLE_HELPERS_MAX = 8
_DEBUGGER_FILES = ("bdb.py", "pdb.py")


class Helper(threading.Thread):
    """A thread that runs one call after another."""

    def __init__(self, run: Callable[[Call, Helper], bool]) -> None:
        super().__init__(name="ray-local-call", daemon=True)
        self._run_call = run
        self.inbox: queue.SimpleQueue[Call | None] = queue.SimpleQueue()

    def run(self) -> None:
        """Run calls until told to end, or until there are enough idle helpers."""
        while (call := self.inbox.get()) is not None:
            stays = contextvars.Context().run(self._run_call, call, self)
            del call
            if not stays:
                return


class Keeper(threading.Thread):
    """Starts calls that have waited for too long, and ends actors that nobody refers to."""

    def __init__(self, serve: Callable[[], float | None], actor_unneeded: Callable[[int], None]) -> None:
        super().__init__(name="ray-local", daemon=True)
        self._serve = serve
        self._actor_unneeded = actor_unneeded
        self._notes: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        self._over = False

    def note_unneeded(self, number: int) -> None:
        """Take a note of an actor. Safe in destructors: the queue is re-entrant."""
        self._notes.put(number)

    def wake(self) -> None:
        """A call was queued."""
        self._notes.put(None)

    def end(self) -> None:
        """End the thread."""
        self._over = True
        if self.is_alive():
            self._notes.put(None)
            if self is not threading.current_thread():
                self.join()

    def run(self) -> None:
        """Sleep until something is due."""
        timeout_s: float | None = None
        while not self._over:
            try:
                number = self._notes.get(timeout=timeout_s)
            except queue.Empty:
                number = None
            if self._over:
                return
            if number is not None:
                self._actor_unneeded(number)
            timeout_s = PATIENCE_S if _main_thread_is_debugged() else self._serve()


def _main_thread_is_debugged() -> bool:
    """Whether the main thread stands at the prompt of pdb or of a debugger made from it."""
    frame = sys._current_frames().get(threading.main_thread().ident or 0)
    for _ in range(50):
        if frame is None:
            return False
        if frame.f_code.co_filename.endswith(_DEBUGGER_FILES):
            return True
        frame = frame.f_back
    return False

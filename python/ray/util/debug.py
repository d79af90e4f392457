"""Messages that are logged once, and a search for memory that code keeps."""

from __future__ import annotations

import threading
import time
from collections import namedtuple
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Suspect", "disable_log_once_globally", "enable_periodic_logging", "find_memory_leaks", "log_once", "reset_log_once"]

_PERIOD_S = 60.0


class _Once:
    """Which keys were seen in this process, and when."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seen: dict[str, float] = {}
        self.disabled = False
        self.periodic = False

    def is_first(self, key: str) -> bool:
        now_s = time.monotonic()
        with self._lock:
            if self.disabled:
                return False
            seen_s = self._seen.get(key)
            if seen_s is not None and not (self.periodic and now_s - seen_s > _PERIOD_S):
                return False
            self._seen[key] = now_s
            return True

    def forget(self, key: str | None) -> None:
        with self._lock:
            if key is None:
                self._seen.clear()
            else:
                self._seen.pop(key, None)


_once = _Once()


def log_once(key: str) -> bool:
    """Tell whether this is the first time that this process asks about a key.

    Args:
        key: Names the message.

    Returns:
        True the first time; after `enable_periodic_logging` again when a minute has passed; never after `disable_log_once_globally`.

    Example:
        >>> if log_once("slow disk"):
        ...     logger.warning("the disk is slow")
    """
    return _once.is_first(key)


def disable_log_once_globally() -> None:
    """Make `log_once` give False from now on, in this process."""
    _once.disabled = True


def enable_periodic_logging() -> None:
    """Make `log_once` give True for a key again when a minute has passed, in this process."""
    _once.periodic = True


def reset_log_once(key: str | None = None) -> None:
    """Forget that a key was asked about.

    Args:
        key: The key; None: all of them.
    """
    _once.forget(key)


Suspect = namedtuple("Suspect", ["traceback", "memory_increase", "slope", "rvalue", "hist"])
"""A line of code whose memory grew: its frames (`tracemalloc.Traceback`), the growth in bytes from the first look to the last, bytes per run, how straight the
growth was (1.0: a line), and the sizes seen."""


def find_memory_leaks(init: Callable[[], Any] | None, code: Callable[[Any], Any], repeats: int, max_num_trials: int = 1) -> list[Suspect]:
    """Run code many times and look which lines of code keep more and more memory.

    Args:
        init: Makes the argument of `code`; None: `code` gets None.
        code: What to run.
        repeats: How often, in each trial.
        max_num_trials: A trial with suspects is repeated up to so often, each time with twice as many runs; only what is suspected each time counts.

    Returns:
        Lines whose memory grew steadily; empty if there are none.
    """
    import tracemalloc

    suspected: list[Suspect] = []
    for trial in range(max_num_trials):
        argument = init() if init is not None else None
        was_tracing = tracemalloc.is_tracing()
        if not was_tracing:
            tracemalloc.start(20)
        try:
            suspected = _suspects(code, argument, repeats * 2**trial)
        finally:
            if not was_tracing:
                tracemalloc.stop()
        if not suspected:
            break
    return suspected


_LOOKS = 10
_LEAST_GROWTH_BYTES = 1000
_LEAST_STRAIGHT = 0.9


def _suspects(code: Callable[[Any], Any], argument: Any, repeats: int) -> list[Suspect]:
    import gc
    import tracemalloc

    sizes: dict[Any, list[int]] = {}
    each = max(1, repeats // _LOOKS)
    for look in range(_LOOKS):
        for _ in range(each):
            code(argument)
        gc.collect()
        snapshot = tracemalloc.take_snapshot().filter_traces([tracemalloc.Filter(False, tracemalloc.__file__), tracemalloc.Filter(False, __file__)])
        for line in snapshot.statistics("traceback"):
            sizes.setdefault(line.traceback, [0] * look).append(line.size)
        for seen in sizes.values():
            seen.extend([0] * (look + 1 - len(seen)))
    found = []
    for where, seen in sizes.items():
        slope, straight = _line_through(seen)
        if seen[-1] - seen[0] >= _LEAST_GROWTH_BYTES and straight >= _LEAST_STRAIGHT:
            found.append(Suspect(where, seen[-1] - seen[0], slope / each, straight, seen))
    return sorted(found, key=lambda suspect: -suspect.memory_increase)


def _line_through(seen: list[int]) -> tuple[float, float]:
    """Slope and correlation of a straight line through equally spaced values, by least squares."""
    count = len(seen)
    mean_x, mean_y = (count - 1) / 2, sum(seen) / count
    xy = sum((x - mean_x) * (y - mean_y) for x, y in enumerate(seen))
    xx = sum((x - mean_x) ** 2 for x in range(count))
    yy = sum((y - mean_y) ** 2 for y in seen)
    return xy / xx, xy / (xx * yy) ** 0.5 if yy else 0.0

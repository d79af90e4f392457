"""Waiting for a condition: the only place in the tests that lets time pass."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def wait_for(condition: Callable[[], T], timeout_s: float = 10.0, what: str = "") -> T:
    """Return the first truthy value of `condition()`; fail after `timeout_s` seconds.

    Pauses grow from 1 ms to 50 ms, so quick conditions cost next to nothing.
    """
    deadline = time.monotonic() + timeout_s
    pause_s = 0.001
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() >= deadline:
            raise AssertionError(f"not within {timeout_s} s: {what or condition}; last value {value!r}")
        time.sleep(pause_s)
        pause_s = min(pause_s * 2, 0.05)


def let_pass(duration_s: float) -> None:
    """Let a fault last. Not for waiting until something has happened: that is `wait_for`."""
    time.sleep(duration_s)

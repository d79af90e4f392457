"""What the tests of `ray.cancel` share: a call that lasts until it is interrupted, and what its caller gets."""

import time

import pytest

import ray
from ray.exceptions import TaskCancelledError
from support.gates import Tally


def doze(tally: Tally, word: str, first: str = "") -> None:
    """Leave a word (or `first`), sleep in short steps until interrupted, and leave one about what was raised.

    Who reads the first may interrupt at once: nothing stands between it and what catches that.
    """
    try:
        tally.add(first or word)
        while True:
            time.sleep(0.01)
    except BaseException as error:
        tally.add(f"{word}:{type(error).__name__}")
        raise


def assert_cancelled(ref: "ray.ObjectRef[object]", timeout: float = 15) -> None:
    with pytest.raises(TaskCancelledError):
        ray.get(ref, timeout=timeout)

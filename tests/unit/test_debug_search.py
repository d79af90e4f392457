"""`ray.util.debug`: memory that code keeps, and where the path of a refused value leads."""

import functools
import threading

import pytest

from ray._core.pickle_path import explain
from ray._core.serialization import serialize
from ray.util.debug import Suspect, find_memory_leaks


def test_code_that_keeps_memory_is_suspected() -> None:
    kept: list[bytes] = []
    found = find_memory_leaks(None, lambda _: kept.append(bytes(2000)), repeats=100)
    assert found
    assert isinstance(found[0], Suspect)
    assert found[0].memory_increase > 100_000
    assert found[0].slope == pytest.approx(2000, rel=0.2)


def test_code_that_keeps_nothing_is_not() -> None:
    assert find_memory_leaks(list, lambda made: made.append(bytes(2000)) or made.clear(), repeats=50, max_num_trials=2) == []


class Slotted:
    __slots__ = ("guard",)

    def __init__(self) -> None:
        self.guard = threading.Lock()


class WithMethod:
    def __init__(self) -> None:
        self.guard = threading.Lock()

    def method(self) -> None: ...


@pytest.mark.parametrize(
    ("value", "path"),
    [
        ({"a": [1, threading.Lock()]}, "['a'][1]"),
        (Slotted(), ".guard"),
        ([WithMethod().method], "[0].__self__.guard"),
        (functools.partial(print, threading.Lock()), ".args[0]"),
        (functools.partial(print, key=threading.Lock()), ".keywords['key']"),
        ((x for x in range(3)), "<genexpr>"),
        ([{"deep": (x for x in range(3))}], "[0]['deep']"),
    ],
)
def test_refused_value_is_named_by_its_path(value: object, path: str) -> None:
    with pytest.raises(TypeError) as caught:
        serialize(value)
    assert path in str(caught.value)
    assert "hint:" in str(caught.value)


def test_path_ends_where_nothing_inside_is_to_blame() -> None:
    class Stubborn:
        def __reduce__(self) -> str:
            raise TypeError("never")

    assert "never" in str(explain({"x": Stubborn()}, TypeError("never")))

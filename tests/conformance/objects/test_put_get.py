"""Storing values and reading them back."""

import datetime
import decimal
import enum
import threading

import pytest

import ray
from ray.exceptions import GetTimeoutError

pytestmark = pytest.mark.runtime(num_cpus=2)


class Colour(enum.Enum):
    RED = 1


VALUES = [
    None,
    True,
    0,
    -(2**200),
    1.5,
    float("inf"),
    3 + 4j,
    "",
    "snowman \u2603",
    "lone surrogate \udc80",
    b"",
    b"\x00" * 1000,
    b"large" * 100_000,
    (),
    (1, (2, (3,))),
    [1, [2, [3]]],
    {"a": {"b": [1]}, 2: None, (1, 2): 3},
    {1, 2},
    frozenset({3}),
    range(3),
    slice(1, 2),
    ...,
    datetime.datetime(2020, 2, 29, tzinfo=datetime.timezone.utc),
    decimal.Decimal("1.10"),
    Colour.RED,
    ValueError("a value, not a failure"),
    int,
]


def same(a, b):
    if isinstance(a, Exception):
        return type(a) is type(b) and a.args == b.args
    return type(a) is type(b) and a == b


@pytest.mark.parametrize("value", VALUES, ids=lambda value: repr(value)[:30].encode("ascii", "replace").decode())
def test_put_get_returns_an_equal_value(value):
    """What is put comes back equal and of the same type, directly and through a task."""

    @ray.remote
    def echo(x):
        return x

    assert same(ray.get(ray.put(value)), value)
    assert same(ray.get(echo.remote(value)), value)


def test_put_get_keeps_functions_and_local_classes():
    """Lambdas, nested functions and instances of local classes are values too."""

    class Local:
        def __init__(self, x):
            self.x = x

    function, local = ray.get(ray.put([lambda x: x + 1, Local(5)]))
    assert function(1) == 2
    assert local.x == 5


def test_put_get_keeps_cycles():
    """A list that contains itself survives."""
    value = [1]
    value.append(value)
    got = ray.get(ray.put(value))
    assert got[1] is got


def test_get_gives_a_fresh_value_each_time():
    """Changing what `get` returned changes neither the object nor what others get."""
    value = {"a": [1]}
    ref = ray.put(value)
    value["a"].append(2)
    first = ray.get(ref)
    assert first == {"a": [1]}
    first["a"].append(3)
    assert ray.get(ref) == {"a": [1]}


def test_get_list_keeps_order_and_repeats():
    """A list of refs gives a list of values in the same order, repeats included."""
    a, b = ray.put("a"), ray.put("b")
    assert ray.get([b, a, b]) == ["b", "a", "b"]
    assert ray.get([]) == []


@pytest.mark.parametrize("wrong", [5, None, "ref", (), {}, {1}, object()], ids=repr)
def test_get_of_something_else_raises_value_error(wrong):
    """Only a ref or a list of refs can be read."""
    with pytest.raises(ValueError):
        ray.get(wrong)


def test_get_of_a_tuple_or_generator_of_refs_raises_value_error():
    """Other containers of refs are refused too."""
    with pytest.raises(ValueError):
        ray.get((ray.put(1),))
    with pytest.raises(ValueError):
        ray.get(ref for ref in [ray.put(1)])


def test_get_list_with_something_else_raises_type_error():
    """A list that holds anything but refs is a TypeError."""
    with pytest.raises(TypeError):
        ray.get([ray.put(1), 2])


def test_put_of_a_ref_raises_type_error():
    """A bare ref can't be put; inside a list it can."""
    ref = ray.put(1)
    with pytest.raises(TypeError):
        ray.put(ref)
    assert ray.get(ray.get(ray.put([ref]))) == [1]


def test_get_timeout_raises_and_the_object_still_arrives(gate):
    """`get` gives up after its timeout with GetTimeoutError, a TimeoutError; the task goes on."""

    @ray.remote
    def late():
        gate.pass_through()
        return "late"

    ref = late.remote()
    for timeout_s in (0, 0.1):
        with pytest.raises(GetTimeoutError):
            ray.get(ref, timeout=timeout_s)
    with pytest.raises(TimeoutError):
        ray.get([ray.put(1), ref], timeout=0.1)
    gate.open()
    assert ray.get(ref, timeout=30) == "late"


def test_get_timeout_zero_reads_what_is_there():
    """`timeout=0` means now: enough for an object that is already here."""
    assert ray.get(ray.put("here"), timeout=0) == "here"


def test_get_of_several_raises_the_first_error():
    """One failed object makes `get` of the whole list raise."""

    @ray.remote
    def fail():
        raise KeyError("inside")

    with pytest.raises(KeyError, match="inside"):
        ray.get([ray.put(1), fail.remote(), ray.put(3)])


def test_get_an_error_twice_raises_twice():
    """An object that holds an error raises it each time it is read."""

    @ray.remote
    def fail():
        raise KeyError("again")

    ref = fail.remote()
    for _ in range(2):
        with pytest.raises(KeyError, match="again"):
            ray.get(ref)


def test_get_from_several_threads_at_once_returns():
    """Threads may wait for the same object."""

    @ray.remote
    def value():
        return list(range(1000))

    ref, got = value.remote(), []
    threads = [threading.Thread(target=lambda: got.append(sum(ray.get(ref)))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got == [499500] * 8


def test_put_in_a_task_is_readable_after_it_ended():
    """A ref made by `put` inside a task can be returned and read, whatever its size."""

    @ray.remote
    def make(size):
        return [ray.put(b"x" * size)]

    for size in (10, 3_000_000):
        (ref,) = ray.get(make.remote(size))
        assert len(ray.get(ref)) == size


def test_ref_equality_hash_and_text():
    """A ref equals its copies, is a dict key, and shows 56 hex digits."""
    a, b = ray.put(1), ray.put(1)
    (copy,) = ray.get(ray.put([a]))
    assert a == copy
    assert hash(a) == hash(copy)
    assert a != b
    assert {a: "a", b: "b"}[copy] == "a"
    assert len(a.hex()) == 56
    assert a.binary() == bytes.fromhex(a.hex())
    assert repr(a) == f"ObjectRef({a.hex()})"


def test_ref_is_neither_ordered_nor_iterable_nor_sized():
    """Using a ref as if it were its value is a TypeError."""
    ref = ray.put([1])
    for misuse in (lambda: list(ref), lambda: len(ref), lambda: ref + 1, lambda: ref < ref):
        with pytest.raises(TypeError):
            misuse()

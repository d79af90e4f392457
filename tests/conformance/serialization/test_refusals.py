"""What can't be serialized, and what is said about it."""

import io
import socket
import threading

import pytest

import ray
from ray.util import inspect_serializability

pytestmark = pytest.mark.runtime(num_cpus=2)


@pytest.mark.parametrize(
    "make",
    [
        threading.Lock,
        threading.RLock,
        threading.Event,
        lambda: (i for i in range(3)),
        lambda: socket.socket(),
        lambda: __import__("sys")._getframe(),
    ],
)
def test_refused_value_raises_type_error(make):
    """`put` and a call say so at once."""
    value = make()
    try:
        with pytest.raises(TypeError):
            ray.put({"inside": [value]})
        with pytest.raises(TypeError):
            ray.remote(lambda x: None).remote(value)
    finally:
        if hasattr(value, "close"):
            value.close()


def test_refused_generator_is_named():
    """The message says what it is."""
    with pytest.raises(TypeError, match="generator"):
        ray.put([(i for i in range(3))])


def test_refused_capture_of_an_actor_class_is_named():
    """A class whose method captured a lock."""
    guard = threading.Lock()

    @ray.remote
    class Actor:
        def locked(self):
            return guard.locked()

    with pytest.raises(TypeError, match="guard"):
        Actor.remote()


def test_inspect_of_what_can_be_serialized():
    """True, and nothing found."""
    out = io.StringIO()
    assert inspect_serializability(lambda x: x + 1, name="fine", print_file=out) == (True, set())


def test_inspect_finds_the_captured_variable():
    """False, with the culprit, its name and what holds it."""
    lock = threading.Lock()

    def f():
        return lock

    out = io.StringIO()
    fine, failures = inspect_serializability(f, name="f", print_file=out)
    assert not fine
    (failure,) = failures
    assert failure.obj is lock
    assert failure.parent is f
    assert failure.path == ("f", "lock")
    assert "lock" in out.getvalue()
    assert "lock" in repr(failure)


def test_inspect_finds_attributes():
    """A culprit in an attribute of an object."""

    class Holder:
        def __init__(self):
            self.fine = 1
            self.guard = threading.Lock()

    holder = Holder()
    fine, failures = inspect_serializability(holder, name="holder", print_file=io.StringIO())
    assert not fine
    assert {type(failure.obj) for failure in failures} == {type(threading.Lock())}


def test_inspect_of_the_culprit_itself():
    """Nothing inside of it is to blame: it is its own culprit."""
    lock = threading.Lock()
    fine, failures = inspect_serializability(lock, name="guard", print_file=io.StringIO())
    assert not fine
    assert [failure.obj for failure in failures] == [lock]

"""Values that can't be pickled: refused in the right place, with the path to the culprit."""

import threading

import pytest

import ray

pytestmark = pytest.mark.runtime(num_cpus=2)


class Holder:
    def __init__(self, inner):
        self.inner = inner


def test_unpicklable_argument_raises_at_the_call():
    """The caller gets a TypeError before anything is sent, and the runtime goes on."""

    @ray.remote
    def f(x):
        return x

    with pytest.raises(TypeError, match="lock"):
        f.remote(threading.Lock())
    assert ray.get(f.remote(1)) == 1


def test_unpicklable_put_raises_type_error():
    """`put` refuses it with a TypeError."""
    with pytest.raises(TypeError, match="lock"):
        ray.put({"a": [threading.Lock()]})


def test_unpicklable_argument_message_names_the_path():
    """The message says where inside the argument the culprit sits."""

    @ray.remote
    def f(config):
        return config

    with pytest.raises(TypeError) as caught:
        f.remote({"db": Holder([1, threading.Lock()])})
    text = str(caught.value)
    assert "db" in text
    assert ".inner" in text
    assert "[1]" in text


def test_unpicklable_capture_is_named():
    """A function that captured something unpicklable says which variable."""
    guard = threading.Lock()

    @ray.remote
    def f():
        return guard.locked()

    with pytest.raises(TypeError, match="guard"):
        f.remote()


def test_unpicklable_result_fails_the_task_and_keeps_the_worker():
    """The result's error reaches the caller as a TypeError and the worker is used again."""

    @ray.remote
    def f():
        return threading.Lock()

    with pytest.raises(TypeError, match="lock"):
        ray.get(f.remote())
    assert ray.get(ray.remote(lambda: 2).remote()) == 2


def test_unpicklable_actor_argument_raises_at_the_call():
    """Constructor and method arguments are checked in the caller as well."""

    @ray.remote
    class Actor:
        def __init__(self, x=None):
            pass

        def f(self, x):
            return x

    with pytest.raises(TypeError, match="lock"):
        Actor.remote(threading.Lock())
    actor = Actor.remote()
    with pytest.raises(TypeError, match="lock"):
        actor.f.remote(threading.Lock())
    assert ray.get(actor.f.remote(3)) == 3


def test_unpicklable_exception_still_tells_its_story():
    """An exception that can't travel is replaced by one with its type, message and traceback."""

    @ray.remote
    def f():
        error = ValueError("original message")
        error.lock = threading.Lock()
        raise error

    with pytest.raises(ray.exceptions.RayError) as caught:
        ray.get(f.remote())
    text = str(caught.value)
    assert "ValueError" in text
    assert "original message" in text


def test_exception_that_cannot_be_read_back_still_tells_its_story():
    """An exception that the caller can't unpickle arrives as text with its type and message."""

    class Stubborn(Exception):
        def __reduce__(self):
            return (_explode, ("boom on the way back",))

    @ray.remote
    def f():
        raise Stubborn("original message")

    with pytest.raises(ray.exceptions.RayError) as caught:
        ray.get(f.remote())
    text = str(caught.value)
    assert "Stubborn" in text
    assert "original message" in text


def _explode(message):
    raise RuntimeError(message)


def test_value_that_cannot_be_read_back_raises_for_its_reader():
    """A value whose unpickling raises fails in `get`, and only there."""

    class Trap:
        def __reduce__(self):
            return (_explode, ("trap",))

    ref = ray.put(Trap())
    with pytest.raises(Exception, match="trap"):
        ray.get(ref)
    assert ray.get(ray.put(1)) == 1


def test_argument_that_cannot_be_read_back_fails_the_task():
    """A task whose argument can't be unpickled fails with the reason; the worker survives."""

    class Trap:
        def __reduce__(self):
            return (_explode, ("trap",))

    @ray.remote
    def f(x):
        return x

    with pytest.raises(Exception, match="trap"):
        ray.get(f.remote(Trap()))
    assert ray.get(f.remote(1)) == 1

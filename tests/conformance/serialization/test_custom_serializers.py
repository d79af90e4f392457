"""`ray.util.register_serializer`: how instances of a class travel."""

import threading

import pytest

import ray
from ray.util import deregister_serializer, register_serializer

np = pytest.importorskip("numpy")
pytestmark = pytest.mark.runtime(num_cpus=2)


class Guarded:
    """Can't be pickled as it is."""

    def __init__(self, value):
        self.value = value
        self.lock = threading.Lock()


class Derived(Guarded):
    pass


@pytest.fixture
def registered():
    register_serializer(Guarded, serializer=lambda one: one.value, deserializer=Guarded)
    yield
    deregister_serializer(Guarded)


def test_serializer_lets_instances_travel(registered):
    """put and get, and an argument of a task."""
    assert ray.get(ray.put(Guarded(5))).value == 5
    assert ray.get(ray.remote(lambda one: one.value).remote(Guarded(6))) == 6


def test_serializer_works_deep_inside_a_value(registered):
    """Instances in containers and in attributes of others."""
    got = ray.get(ray.put({"a": [Guarded(1), (Guarded(2),)]}))
    assert (got["a"][0].value, got["a"][1][0].value) == (1, 2)


def test_serializer_is_used_for_captured_variables(registered):
    """A function that captured an instance."""
    guarded = Guarded(7)
    assert ray.get(ray.remote(lambda: guarded.value).remote()) == 7


def test_serializer_needs_no_registration_where_it_is_read(registered):
    """The deserializer travels with the value; an actor keeps what it got."""

    @ray.remote
    class Keeper:
        def keep(self, one):
            self.one = one

        def value(self):
            return self.one.value

    keeper = Keeper.remote()
    ray.get(keeper.keep.remote(Guarded(8)))
    assert ray.get(keeper.value.remote()) == 8


def test_serializer_is_of_the_process_that_registered_it(registered):
    """A task that gives an instance back must register as well."""

    @ray.remote
    def make(register):
        if register:
            ray.util.register_serializer(Guarded, serializer=lambda one: one.value + 1, deserializer=Guarded)
        return Guarded(1)

    with pytest.raises(TypeError):
        ray.get(make.remote(False))
    assert ray.get(make.remote(True)).value == 2


def test_serializer_does_not_concern_derived_classes(registered):
    """Only instances of the class itself."""
    with pytest.raises(TypeError):
        ray.put(Derived(1))


def test_serializer_registered_again_replaces_the_first(registered):
    """The last one counts."""
    register_serializer(Guarded, serializer=lambda one: one.value * 10, deserializer=Guarded)
    assert ray.get(ray.put(Guarded(5))).value == 50


def test_serializer_deregistered_is_gone():
    """Then the class is as before."""
    register_serializer(Guarded, serializer=lambda one: one.value, deserializer=Guarded)
    deregister_serializer(Guarded)
    with pytest.raises(TypeError):
        ray.put(Guarded(1))


def test_serializer_may_give_large_arrays(registered):
    """What it gives is serialized like any value: arrays are shared."""

    class Holder:
        def __init__(self, array):
            self.array = array
            self.lock = threading.Lock()

    register_serializer(Holder, serializer=lambda one: one.array, deserializer=Holder)
    ref = ray.put(Holder(np.ones(1 << 20)))
    first, second = ray.get(ref), ray.get(ref)
    assert first.array.__array_interface__["data"] == second.array.__array_interface__["data"]
    deregister_serializer(Holder)


def test_serializer_that_raises_fails_the_put():
    """Its error reaches who put the value."""

    def refuse(one):
        raise ValueError("not today")

    register_serializer(Guarded, serializer=refuse, deserializer=Guarded)
    try:
        with pytest.raises(Exception, match="not today"):
            ray.put(Guarded(1))
    finally:
        deregister_serializer(Guarded)

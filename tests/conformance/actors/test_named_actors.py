"""Actors found by name."""

import os

import pytest

import ray
from support import is_alive, wait_for

pytestmark = pytest.mark.runtime(num_cpus=4, namespace="here")


@ray.remote
class Keeper:
    def __init__(self, value=None):
        self.value = value

    def read(self):
        return self.value

    def pid(self):
        return os.getpid()


def found(name, namespace=None):
    try:
        return ray.get_actor(name, namespace)
    except ValueError:
        return None


def test_named_actor_is_found_in_driver_tasks_and_actors():
    """`get_actor` gives a full handle in any process of the namespace."""
    keeper = Keeper.options(name="findable").remote("kept")

    @ray.remote
    def look():
        return ray.get(ray.get_actor("findable").read.remote())

    assert ray.get(ray.get_actor("findable").read.remote()) == "kept"
    assert ray.get(look.remote()) == "kept"
    assert ray.get_actor("findable") == keeper


def test_named_actor_name_taken_raises_value_error():
    """A second actor of the same name is refused while the first lives."""
    first = Keeper.options(name="taken").remote(1)
    with pytest.raises(ValueError, match="taken"):
        Keeper.options(name="taken").remote(2)
    assert ray.get(first.read.remote()) == 1


def test_named_actor_get_if_exists_gives_the_first():
    """With get_if_exists the first creation wins and later ones get its handle."""
    make = Keeper.options(name="shared", get_if_exists=True)
    first, second = make.remote(1), make.remote(2)
    assert ray.get([first.read.remote(), second.read.remote()]) == [1, 1]
    assert first == second


def test_named_actor_get_if_exists_from_many_tasks_makes_one():
    """Racing creators agree on one actor."""

    @ray.remote
    def join(i):
        actor = Keeper.options(name="raced", get_if_exists=True, lifetime="detached").remote(i)
        return ray.get(actor.pid.remote())

    assert len(set(ray.get([join.remote(i) for i in range(6)]))) == 1
    ray.kill(ray.get_actor("raced"))


def test_named_actor_unknown_name_raises_value_error():
    """Looking up a name that nobody has raises ValueError naming it."""
    with pytest.raises(ValueError, match="nobody"):
        ray.get_actor("nobody")
    with pytest.raises(ValueError):
        ray.get_actor("")


def test_named_actor_name_is_free_after_kill():
    """A dead actor's name can be used again."""
    first = Keeper.options(name="reused").remote(1)
    ray.get(first.read.remote())
    ray.kill(first)
    wait_for(lambda: found("reused") is None)
    second = Keeper.options(name="reused").remote(2)
    assert ray.get(second.read.remote()) == 2


def test_named_actor_namespaces_are_apart():
    """The same name in another namespace is another actor, found only there."""
    here = Keeper.options(name="local").remote("here")
    there = Keeper.options(name="local", namespace="there").remote("there")
    assert ray.get(ray.get_actor("local").read.remote()) == "here"
    assert ray.get(ray.get_actor("local", namespace="there").read.remote()) == "there"
    assert here != there
    with pytest.raises(ValueError):
        ray.get_actor("local", namespace="elsewhere")


def test_named_actor_goes_with_its_last_handle():
    """A name does not keep an actor alive."""
    actor = Keeper.options(name="fleeting").remote()
    pid = ray.get(actor.pid.remote())
    del actor
    wait_for(lambda: not is_alive(pid), 15)
    wait_for(lambda: found("fleeting") is None)


def test_named_actor_detached_outlives_its_handles():
    """A detached actor lives until it is killed."""
    pid = ray.get(Keeper.options(name="lasting", lifetime="detached").remote(9).pid.remote())
    again = ray.get_actor("lasting")
    assert ray.get([again.pid.remote(), again.read.remote()]) == [pid, 9]
    ray.kill(again)
    wait_for(lambda: not is_alive(pid))


def test_named_actors_are_listed():
    """`list_named_actors` shows the own namespace's names, or all with their namespaces."""
    keep = [Keeper.options(name="listed").remote(), Keeper.options(name="listed-too", namespace="far").remote()]
    ray.get([actor.read.remote() for actor in keep])
    assert "listed" in ray.util.list_named_actors()
    assert "listed-too" not in ray.util.list_named_actors()
    assert {"name": "listed-too", "namespace": "far"} in ray.util.list_named_actors(all_namespaces=True)

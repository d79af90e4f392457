"""Handles that travel: pickled by hand, inside objects and exceptions, to tasks and other actors, back to their own actor."""

import copy
import gc
import os
import pickle

import pytest

import ray
from support import is_alive, wait_for

pytestmark = [pytest.mark.runtime(num_cpus=4), pytest.mark.limit(20)]


@ray.remote(num_cpus=0)
class Box:
    def __init__(self, value=None):
        self.value = value
        self.others = []

    def get(self):
        return self.value

    def set(self, value):
        self.value = value

    def keep(self, other):
        self.others.append(other)
        return len(self.others)

    def ask(self):
        return [ray.get(other.get.remote()) for other in self.others]

    def forget(self):
        self.others.clear()

    def me(self):
        return ray.get_runtime_context().current_actor

    def pid(self):
        return os.getpid()

    @ray.method(num_returns=2)
    def pair(self):
        return 1, 2

    def raise_with_handle(self):
        error = ValueError("with a handle")
        error.handle = ray.get_runtime_context().current_actor
        raise error

    def numbers(self, n):
        for i in range(n):  # noqa: UP028  Ray refuses `yield from` a plain iterator
            yield i


@ray.remote(num_cpus=0)
def ask(handle):
    return ray.get(handle.get.remote())


@pytest.mark.parametrize("pickler", [pickle, ray.cloudpickle])
def test_handle_pickled_by_hand_reaches_the_same_actor(pickler):
    """A handle survives `dumps` and `loads` in the same process."""
    box = Box.remote(1)
    again = pickler.loads(pickler.dumps(box))
    assert again == box and hash(again) == hash(box)
    ray.get(again.set.remote(2))
    assert ray.get(box.get.remote()) == 2


def test_handle_pickled_by_hand_works_in_a_task():
    """Bytes carry it to another process as well."""
    box = Box.remote("far")
    data = ray.cloudpickle.dumps({"box": box})

    @ray.remote(num_cpus=0)
    def unpickle(data):
        return ray.get(ray.cloudpickle.loads(data)["box"].get.remote())

    assert ray.get(unpickle.remote(data)) == "far"


def test_handle_can_be_copied():
    """`copy` and `deepcopy` give handles to the same actor."""
    box = Box.remote(3)
    for again in (copy.copy(box), copy.deepcopy(box), copy.deepcopy([box])[0]):
        assert again == box
        assert ray.get(again.get.remote()) == 3


def test_handles_compare_and_hash_by_their_actor():
    """Handles are keys: equal if and only if they mean the same actor."""
    one, two = Box.remote(), Box.remote()
    again = ray.get(ray.put(one))
    assert again is not one and again == one and one != two
    assert len({one, again, two}) == 2
    assert one != "something else"


def test_handle_of_a_method_survives_pickling():
    """A bound method may be stored and passed, with the options of the class."""
    box = Box.remote(4)
    assert ray.get(pickle.loads(pickle.dumps(box.get)).remote()) == 4
    assert ray.get(ray.cloudpickle.loads(ray.cloudpickle.dumps(box.pair)).remote()) == [1, 2]


def test_handle_from_elsewhere_keeps_method_options():
    """`num_returns` and generators are known to a handle that came through an object."""
    box = ray.get(ray.put([Box.remote()]))[0]
    assert ray.get(box.pair.remote()) == [1, 2]
    assert [ray.get(ref) for ref in box.numbers.remote(3)] == [0, 1, 2]


def test_handle_nested_in_an_object_is_usable_by_a_task():
    """A task gets the handle out of a dict of lists."""
    stored = ray.put({"boxes": [Box.remote(1), Box.remote(2)]})

    @ray.remote(num_cpus=0)
    def total(boxes):
        return sum(ray.get([box.get.remote() for box in boxes["boxes"]]))

    assert ray.get(total.remote(stored)) == 3


def test_handle_kept_by_another_actor_keeps_its_actor_alive():
    """The last handle may be with an actor; when that lets go, the actor ends."""
    keeper, box = Box.remote(), Box.remote("kept")
    pid = ray.get(box.pid.remote())
    assert ray.get(keeper.keep.remote(box)) == 1
    del box
    gc.collect()
    assert ray.get(keeper.ask.remote()) == ["kept"]
    assert is_alive(pid)
    ray.get(keeper.forget.remote())
    wait_for(lambda: not is_alive(pid), 15)


def test_handle_passed_on_through_a_chain_of_tasks():
    """Each task passes it to the next; the last one calls."""
    box = Box.remote("end of the chain")

    @ray.remote(num_cpus=0)
    def relay(handle, hops):
        return ray.get(relay.remote(handle, hops - 1)) if hops else ray.get(ask.remote(handle))

    assert ray.get(relay.remote(box, 3)) == "end of the chain"


def test_actor_gives_out_its_own_handle():
    """`current_actor` is equal to the handles of others and works after the others are gone."""
    box = Box.remote(5)
    mine = ray.get(box.me.remote())
    assert mine == box
    del box
    gc.collect()
    assert ray.get(mine.get.remote()) == 5


def test_actor_that_keeps_its_own_handle_answers():
    """A handle to itself is like any other."""
    box = Box.remote(6)
    ray.get(box.keep.remote(ray.get(box.me.remote())))
    assert ray.get(box.get.remote()) == 6
    ray.kill(box)


def test_actors_may_know_each_other():
    """Two actors hold handles to each other."""
    one, two = Box.remote(1), Box.remote(2)
    ray.get([one.keep.remote(two), two.keep.remote(one)])
    assert ray.get(one.ask.remote()) == [2]  # one after the other: each waits for the other's answer
    assert ray.get(two.ask.remote()) == [1]
    ray.get([one.forget.remote(), two.forget.remote()])


def test_handle_in_an_exception_arrives():
    """What a method raises may carry a handle."""
    box = Box.remote(7)
    with pytest.raises(ValueError, match="with a handle") as caught:
        ray.get(box.raise_with_handle.remote())
    assert ray.get(caught.value.cause.handle.get.remote()) == 7


def test_handle_as_a_task_result_keeps_its_actor_alive():
    """An actor made by a task lives on with the result that mentions it."""

    @ray.remote(num_cpus=0)
    def make():
        return Box.remote("made by a task")

    box = ray.get(make.remote())
    assert ray.get(box.get.remote()) == "made by a task"


def test_handle_as_a_generators_item():
    """Items may be handles."""

    @ray.remote(num_cpus=0)
    def make(n):
        for i in range(n):
            yield Box.remote(i)

    boxes = [ray.get(ref) for ref in make.remote(2)]
    assert ray.get([box.get.remote() for box in boxes]) == [0, 1]


def test_handle_has_no_attributes_but_methods():
    """`dir` shows the methods; an unknown name is an AttributeError."""
    box = Box.remote()
    assert {"get", "set", "pair", "numbers"} <= set(dir(box))
    with pytest.raises(AttributeError, match="nonsense"):
        box.nonsense  # noqa: B018


def test_handle_of_a_dead_actor_still_travels():
    """It can be pickled and passed; calls through it raise as before."""
    box = Box.remote()
    pid = ray.get(box.pid.remote())
    ray.kill(box)
    wait_for(lambda: not is_alive(pid), 15)
    again = pickle.loads(pickle.dumps(box))
    with pytest.raises(ray.exceptions.ActorDiedError):
        ray.get(again.get.remote())
    with pytest.raises(ray.exceptions.ActorDiedError):
        ray.get(ask.remote(box))

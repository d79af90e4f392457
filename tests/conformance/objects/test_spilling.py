"""More objects than the store holds: they go to disk and come back, and nobody notices but the clock."""

import pytest

import ray
from support import wait_for
from support.parts import PART_BYTES, STORE_BYTES, is_part, part

np = pytest.importorskip("numpy")

COUNT = 24  # three times the store

pytestmark = [pytest.mark.runtime(num_cpus=2, object_store_memory=STORE_BYTES), pytest.mark.limit(30)]


@ray.remote
def make(i):
    return part(i)


@ray.remote
def check(array, i):
    return is_part(array, i)


def test_spilled_puts_beyond_the_store_are_all_readable():
    """Everything that was put is there, the oldest included, in any order and more than once."""
    refs = [ray.put(part(i)) for i in range(COUNT)]
    for i in [*range(COUNT), *reversed(range(COUNT))]:
        assert is_part(ray.get(refs[i]), i)


def test_spilled_results_beyond_the_store_are_all_readable():
    """Results that nobody has read yet don't stop the tasks behind them."""
    refs = [make.remote(i) for i in range(COUNT)]
    ray.wait(refs, num_returns=COUNT)
    assert all(is_part(ray.get(ref), i) for i, ref in enumerate(refs))


def test_spilled_objects_are_arguments_like_others():
    """Tasks get values from disk, passed directly."""
    refs = [ray.put(part(i)) for i in range(COUNT)]
    assert all(ray.get([check.remote(ref, i) for i, ref in enumerate(refs)]))


def test_spilled_objects_are_read_by_a_task_that_got_their_refs():
    """A borrower reads values from disk, one after another."""

    @ray.remote
    def check_all(refs):
        return [is_part(ray.get(ref), i) for i, ref in enumerate(refs)]

    refs = [ray.put(part(i)) for i in range(COUNT)]
    assert ray.get(check_all.remote(refs)) == [True] * COUNT


def test_spilled_results_feed_tasks_that_wait_for_them():
    """A pipeline whose stages hold more than the store."""

    @ray.remote
    def add_one(array):
        return array + np.uint8(1)

    refs = [add_one.remote(make.remote(i)) for i in range(COUNT)]
    assert all(is_part(ray.get(ref), i + 1) for i, ref in enumerate(refs))


def test_spilling_leaves_what_is_being_read_as_it_was():
    """An array that the program holds keeps its content while everything around it is moved and replaced."""
    held = [ray.get(ray.put(part(i))) for i in range(3)]
    refs = [ray.put(part(100 + i)) for i in range(COUNT)]
    assert all(is_part(array, i) for i, array in enumerate(held))
    assert all(is_part(ray.get(ref), 100 + i) for i, ref in enumerate(refs))


def test_spilled_array_is_read_only():
    """A value from disk can't be written to, as any other."""
    refs = [ray.put(part(i)) for i in range(COUNT)]
    array = ray.get(refs[0])
    with pytest.raises(ValueError, match="read-only"):
        array[0] = 1


def test_spilled_objects_of_an_actor_are_readable_elsewhere():
    """What an actor puts is spilled by whoever owns it."""

    @ray.remote
    class Maker:
        def fill(self):
            self.refs = [ray.put(part(i)) for i in range(COUNT)]
            return self.refs

        def check(self):
            return [is_part(ray.get(ref), i) for i, ref in enumerate(self.refs)]

    maker = Maker.remote()
    refs = ray.get(maker.fill.remote())
    assert ray.get(maker.check.remote()) == [True] * COUNT
    assert all(is_part(ray.get(ref), i) for i, ref in enumerate(refs))


def test_spilled_nested_objects_are_readable():
    """References inside of values keep what is on disk."""
    boxes = [ray.put([ray.put(part(i))]) for i in range(COUNT)]
    assert all(is_part(ray.get(ray.get(box)[0]), i) for i, box in enumerate(boxes))


def test_spilling_makes_the_store_free_again_when_refs_go():
    """After all refs are gone nothing of the store is in use."""
    total = ray.cluster_resources()["object_store_memory"]
    refs = [ray.put(part(i)) for i in range(COUNT)]
    assert len(refs) == COUNT
    del refs
    wait_for(lambda: ray.available_resources().get("object_store_memory", 0) >= total - 64 * 1024, 20)


def test_spilling_goes_on_over_many_generations():
    """Eight times the store goes through while a window of more than its size is held."""
    window = []
    for i in range(8 * STORE_BYTES // PART_BYTES):
        window.append((i % 250, ray.put(part(i % 250))))
        if len(window) > 12:
            number, ref = window.pop(0)
            assert is_part(ray.get(ref), number)
            del ref
    assert all(is_part(ray.get(ref), number) for number, ref in window)


def test_spilled_items_of_a_generator_are_all_readable():
    """Items that were yielded and not read yet go to disk like other values, and don't stop the generator."""

    @ray.remote
    def parts():
        for i in range(COUNT):
            yield part(i)

    items = list(parts.remote())
    assert len(items) == COUNT
    assert all(is_part(ray.get(ref), i) for i, ref in enumerate(items))

"""Freeing, seen from outside: a small store serves many times its size when values are let go."""

import os

import pytest

import ray
from support import wait_for

STORE_BYTES = 100 * 1024 * 1024
PART_BYTES = 16 * 1024 * 1024
ROUNDS = 5 * STORE_BYTES // PART_BYTES

pytestmark = [pytest.mark.runtime(num_cpus=2, object_store_memory=STORE_BYTES), pytest.mark.limit(30)]


def part(i):
    return bytes([i % 256]) * PART_BYTES


def test_store_puts_beyond_its_size_when_refs_are_dropped():
    """Five times the store's size goes through when each ref is dropped."""
    for i in range(ROUNDS):
        ref = ray.put(part(i))
        assert ray.get(ref)[0] == i % 256
        del ref


def test_store_large_results_are_freed_with_their_refs():
    """Results of tasks are freed as well."""

    @ray.remote
    def make(i):
        return part(i)

    for i in range(ROUNDS):
        assert ray.get(make.remote(i))[-1] == i % 256


def test_store_large_arguments_are_freed_after_the_call():
    """Values passed directly are gone once the call is over."""

    @ray.remote
    def first(data):
        return data[0]

    for i in range(ROUNDS):
        assert ray.get(first.remote(part(i))) == i % 256


def test_store_puts_of_workers_are_freed_with_them():
    """What a task puts for itself is freed when the task lets go."""

    @ray.remote
    def work(i):
        return ray.get(ray.put(part(i)))[0]

    assert [ray.get(work.remote(i)) for i in range(ROUNDS)] == [i % 256 for i in range(ROUNDS)]


def test_store_values_kept_by_an_actor_are_freed_when_it_drops_them():
    """An actor that replaces the ref it keeps does not pile up objects."""

    @ray.remote
    class Keeper:
        def keep(self, box):
            self.box = box
            return len(ray.get(box[0]))

    keeper = Keeper.remote()
    for i in range(ROUNDS):
        assert ray.get(keeper.keep.remote([ray.put(part(i))])) == PART_BYTES


def test_store_nested_objects_are_freed_with_the_outer_one():
    """Dropping a container object frees what only it referred to."""
    for i in range(ROUNDS):
        outer = ray.put([ray.put(part(i))])
        assert ray.get(ray.get(outer)[0])[0] == i % 256
        del outer


def test_store_values_of_a_dead_worker_are_freed(tally):
    """Objects of a worker that died don't stay."""

    @ray.remote(max_retries=0)
    def die(i):
        tally.add()
        refs = [ray.put(part(i)), ray.put(part(i))]
        os._exit(len(refs))

    for i in range(5):
        with pytest.raises(ray.exceptions.WorkerCrashedError):
            ray.get(die.remote(i))
    refs = [ray.put(part(i)) for i in range(3)]
    assert [ray.get(ref)[0] for ref in refs] == [0, 1, 2]


def test_store_usage_goes_back_to_nothing():
    """After all refs are gone, the whole store is available again."""
    total = ray.cluster_resources()["object_store_memory"]

    def free():
        return ray.available_resources().get("object_store_memory", 0)

    refs = [ray.put(part(i)) for i in range(3)]
    wait_for(lambda: free() <= total - 3 * PART_BYTES)
    del refs
    wait_for(lambda: free() >= total - 64 * 1024)


def test_store_full_is_an_error_or_spills_and_recovers():
    """Holding more than fits either spills or raises ObjectStoreFullError; nothing stored is lost, and letting go helps."""
    refs = []
    try:
        for i in range(3 * STORE_BYTES // PART_BYTES):
            refs.append(ray.put(part(i)))
    except ray.exceptions.ObjectStoreFullError as error:
        assert len(refs) * PART_BYTES >= STORE_BYTES // 2, str(error)
    assert [ray.get(ref)[0] for ref in refs] == list(range(len(refs)))
    refs.clear()
    assert ray.get(ray.put(part(9)))[0] == 9


def test_store_object_larger_than_the_store_fails_clearly_or_spills():
    """One value that can never fit is an error that says so, or goes to disk; the runtime goes on."""
    try:
        ref = ray.put(b"y" * (STORE_BYTES + PART_BYTES))
        assert len(ray.get(ref)) == STORE_BYTES + PART_BYTES
    except ray.exceptions.ObjectStoreFullError as error:
        assert str(error)
    assert ray.get(ray.put(part(1)))[0] == 1

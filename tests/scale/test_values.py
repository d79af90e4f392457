"""Very many values, very large ones, very many arguments."""

import random

import numpy as np  # before any snapshot: it starts threads of its own
import pytest

import ray
from support import init, wait_for

pytestmark = pytest.mark.limit(60)

KIB_100 = b"x" * 102_400  # with its pickle around it just too large to be kept inline


def store_used():
    total, free = ray.cluster_resources(), ray.available_resources()
    return total["object_store_memory"] - free.get("object_store_memory", 0)


def check_puts(count):
    """Refs dropped as it goes: the store stays small. Then as many as fit, half of them dropped here and there, and filled up again."""
    store_bytes = 256 << 20
    init(num_cpus=1, object_store_memory=store_bytes, _system_config={"automatic_object_spilling_enabled": False})
    for i in range(count):
        ref = ray.put(KIB_100)
        if i % 1000 == 0:
            assert ray.get(ref) == KIB_100
    del ref
    assert store_used() <= 8 << 20
    refs = hold_as_many_as_fit()
    assert len(refs) * len(KIB_100) > 0.9 * store_bytes
    random.Random(1).shuffle(refs)
    del refs[: len(refs) // 2]
    again = hold_as_many_as_fit()
    assert abs(len(again) - len(refs)) <= len(refs) // 10
    assert ray.get(refs[-1]) == ray.get(again[-1]) == KIB_100
    refs.clear()
    again.clear()
    wait_for(lambda: store_used() == 0, 30)


def hold_as_many_as_fit():
    refs = []
    try:
        while True:
            refs.append(ray.put(KIB_100))
    except ray.exceptions.ObjectStoreFullError:
        return refs


def test_values_20k_of_100_kib_pass_through_a_small_store(no_runtime):
    """Eight times its size."""
    check_puts(20_000)


@pytest.mark.slow
@pytest.mark.limit(300)
def test_values_1m_of_100_kib_pass_through_a_small_store(no_runtime):
    """Four hundred times its size."""
    check_puts(1_000_000)


def test_arguments_10k_by_keyword_arrive(no_runtime):
    """Plain ones, and references."""
    init(num_cpus=1)

    @ray.remote
    def count(**values):
        return len(values), sum(values.values())

    plain = {f"key_{i}": i for i in range(10_000)}
    refs = {name: ray.put(value) for name, value in plain.items()}
    assert ray.get([count.remote(**plain), count.remote(**refs)]) == [(10_000, sum(range(10_000)))] * 2


@pytest.mark.slow
@pytest.mark.limit(120)
def test_argument_of_4_gib_is_read_in_place(no_runtime):
    """The worker sees the array without a copy of its own: read-only, not its own memory, and its process stays small."""
    init(num_cpus=1)

    @ray.remote
    def look(array):
        with open("/proc/self/status") as status:
            anonymous_kib = next(int(line.split()[1]) for line in status if line.startswith("RssAnon"))
        return array.nbytes, int(array[0]), int(array[-1]), array.flags.owndata, array.flags.writeable, anonymous_kib < 100 * 1024

    array = np.zeros(4 << 30, np.uint8)
    array[-1] = 7
    ref = look.remote(array)
    del array
    assert ray.get(ref) == (4 << 30, 0, 7, False, False, True)

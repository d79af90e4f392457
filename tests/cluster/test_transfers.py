"""Bytes between nodes: right at every size, once per node, without copies after arrival, beyond the store's room, and gone in the end."""

import hashlib
from pathlib import Path

import numpy as np
import pytest

import ray
from support.clusters import here, loopback_bytes, on, wait_until_free

pytestmark = pytest.mark.limit(25)

MIB = 1 << 20
SIZES = [0, 1, 100, 4095, 65_536, 102_399, 102_400, 102_401, MIB - 1, MIB, MIB + 1, 4 * MIB + 3, 16 * MIB - 1, 33 * MIB + 17]


@ray.remote(num_cpus=0)
def noise(seed, size_bytes):
    return np.random.default_rng(seed).bytes(size_bytes)


@ray.remote(num_cpus=0)
def digest(data):
    return hashlib.blake2b(data).hexdigest()


@ray.remote(num_cpus=0)
def look(array):
    """(where, whether it may be written to, whether it lies in memory that is shared, its sum)"""
    return here(), array.flags.writeable, in_shared_memory(array), int(array.sum(dtype=np.int64))


def in_shared_memory(array):
    address = array.__array_interface__["data"][0]
    for line in Path("/proc/self/maps").read_text().splitlines():
        start, end = (int(part, 16) for part in line.split()[0].split("-"))
        if start <= address < end:
            return line.split()[1].endswith("s")
    return False


def expected(seed, size_bytes):
    return hashlib.blake2b(np.random.default_rng(seed).bytes(size_bytes)).hexdigest()


@pytest.mark.slow
def test_values_of_every_size_arrive_as_they_were(n2, n3):
    """Results of one node as arguments of another and of the driver, and the driver's own, around every limit: each byte is right."""
    made = [on(noise, n2).remote(seed, size) for seed, size in enumerate(SIZES)]
    right = [expected(seed, size) for seed, size in enumerate(SIZES)]
    assert ray.get([on(digest, n3).remote(ref) for ref in made], timeout=15) == right
    assert [hashlib.blake2b(ray.get(ref, timeout=10)).hexdigest() for ref in made] == right
    mine = [ray.put(np.random.default_rng(seed).bytes(size)) for seed, size in enumerate(SIZES)]
    assert ray.get([on(digest, n2).remote(ref) for ref in mine], timeout=15) == right
    del made, mine
    wait_until_free()


def test_large_argument_is_a_read_only_view_and_comes_once(nodes, n2):
    """50 MB go to another node: the task's array is a view of shared memory that can't be written; further tasks there cause no further transfer."""
    source = np.random.default_rng(1).integers(0, 255, 50_000_000, dtype=np.uint8)
    ref = ray.put(source)
    right = (n2.id, False, True, int(source.sum(dtype=np.int64)))
    assert ray.get(on(look, n2).remote(ref), timeout=10) == right
    before = loopback_bytes()
    assert ray.get([on(look, n2).remote(ref) for _ in range(5)], timeout=10) == [right] * 5
    assert loopback_bytes() - before < 25_000_000
    del ref
    wait_until_free()


@pytest.mark.slow
def test_readers_at_the_same_time_share_one_transfer(nodes, n2):
    """Eight workers of one node ask for the same 40 MB at once: they come once."""
    source = np.ones(40_000_000, np.uint8)
    ref = ray.put(source)
    before = loopback_bytes()
    seen = ray.get([on(look, n2).remote(ref) for _ in range(8)], timeout=15)
    assert seen == [(n2.id, False, True, 40_000_000)] * 8
    assert loopback_bytes() - before < 80_000_000
    del ref
    wait_until_free()


@pytest.mark.slow
def test_remote_result_is_a_view_in_the_driver_too(n2):
    """A large result of another node is a read-only view of shared memory here; it outlives its reference."""
    ref = on(ray.remote(num_cpus=0)(lambda: np.arange(5_000_000)), n2).remote()
    value = ray.get(ref, timeout=10)
    del ref
    assert not value.flags.writeable and in_shared_memory(value)
    assert int(value[-1]) == 4_999_999 and int(value.sum()) == 4_999_999 * 5_000_000 // 2
    del value
    wait_until_free()


def test_broadcast_reaches_every_node_once(nodes, n2, n3):
    """30 MB from the driver to tasks on three nodes, several on each: right everywhere, and two transfers in all."""
    ref = ray.put(np.full(30_000_000, 3, np.uint8))
    before = loopback_bytes()
    tags = ["head", n2, n3] * 3
    seen = ray.get([on(look, tag).remote(ref) for tag in tags], timeout=15)
    assert [one[1:] for one in seen] == [(False, True, 90_000_000)] * 9
    assert {one[0] for one in seen} == {nodes.head_id, n2.id, n3.id}
    assert loopback_bytes() - before < 90_000_000
    del ref
    wait_until_free()


def test_more_arguments_than_the_nodes_store_holds(nodes):
    """Twenty objects of 16 MB are read one after the other and in fours at a node whose store holds 128 MB: copies make way."""
    small = nodes.add("n2", object_store_memory=128 * MIB)
    refs = [ray.put(np.full(16 * MIB, number, np.uint8)) for number in range(20)]
    read = on(ray.remote(num_cpus=0)(lambda *arrays: [int(array[-1]) for array in arrays]), small)
    assert [ray.get(read.remote(ref), timeout=10)[0] for ref in refs] == list(range(20))
    fours = ray.get([read.remote(*refs[i : i + 4]) for i in range(0, 20, 4)], timeout=15)
    assert sum(fours, []) == list(range(20))
    del refs
    wait_until_free()


@pytest.mark.slow
def test_more_results_than_the_nodes_store_holds(nodes):
    """Twenty results of 16 MB are made at a node whose store holds 128 MB, and read from the driver in any order: each is right."""
    small = nodes.add("n2", object_store_memory=128 * MIB)
    make = on(ray.remote(num_cpus=0)(lambda number: np.full(16 * MIB, number, np.uint8)), small)
    refs = [make.remote(number) for number in range(20)]
    ray.wait(refs, num_returns=20, timeout=20, fetch_local=False)
    for number in np.random.default_rng(3).permutation(20):
        value = ray.get(refs[number], timeout=10)
        assert int(value[0]) == int(value[-1]) == number
        del value
    del refs
    wait_until_free()


@pytest.mark.slow
def test_exchange_between_all_nodes_at_once_is_right(nodes, n2, n3):
    """Each of three nodes makes twelve parts, each reads a third of all others' parts at the same time: a shuffle in the small."""
    tags = ["head", n2, n3]
    parts = {(i, j): on(noise, tags[i % 3]).remote(100 * i + j, 500_000 + i) for i in range(12) for j in range(3)}
    reads = {key: on(digest, tags[key[1]]).remote(ref) for key, ref in parts.items()}
    got = dict(zip(reads, ray.get(list(reads.values()), timeout=20), strict=True))
    assert got == {(i, j): expected(100 * i + j, 500_000 + i) for i, j in parts}
    del parts, reads
    wait_until_free()

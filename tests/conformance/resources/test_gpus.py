"""Logical GPUs: who gets which, and what the environment says."""

import os

import pytest

import ray
from support import wait_for

pytestmark = [pytest.mark.runtime(num_cpus=8, num_gpus=4), pytest.mark.limit(20)]


def seen():
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    return sorted(int(i) for i in ray.get_gpu_ids()), sorted(int(i) for i in visible.split(",") if i)


@ray.remote
class Holder:
    def seen(self):
        return seen()


@pytest.fixture(autouse=True)
def _all_free():
    wait_for(lambda: ray.available_resources().get("GPU") == 4, 30)


def test_gpus_of_the_driver_are_none():
    """The driver is granted no GPU."""
    assert ray.get_gpu_ids() == []


def test_gpu_task_sees_its_ids():
    """A task with two GPUs sees two ids, the same in CUDA_VISIBLE_DEVICES."""
    ids, visible = ray.get(ray.remote(num_gpus=2)(seen).remote())
    assert len(set(ids)) == 2
    assert set(ids) <= {0, 1, 2, 3}
    assert visible == ids


def test_gpu_task_without_gpus_sees_none():
    """A task that asks for no GPU has none, also in a worker that had one before."""
    ray.get(ray.remote(num_gpus=1)(seen).remote())
    assert ray.get(ray.remote(seen).remote())[0] == []


def test_gpu_actors_never_share_whole_ones():
    """Four actors with one GPU each hold four different ones."""
    actors = [Holder.options(num_gpus=1).remote() for _ in range(4)]
    got = ray.get([actor.seen.remote() for actor in actors])
    assert sorted(ids[0] for ids, _ in got) == [0, 1, 2, 3]
    assert all(ids == visible for ids, visible in got)


def test_gpu_fractions_fill_each_device_exactly():
    """Eight halves: each GPU serves two."""
    actors = [Holder.options(num_gpus=0.5).remote() for _ in range(8)]
    ids = [one[0][0] for one in ray.get([actor.seen.remote() for actor in actors])]
    assert sorted(ids) == [0, 0, 1, 1, 2, 2, 3, 3]


def test_gpu_fractions_are_packed():
    """Two halves share a device, so that whole ones stay free for others."""
    halves = [Holder.options(num_gpus=0.5).remote() for _ in range(2)]
    first, second = ray.get([actor.seen.remote() for actor in halves])
    assert first == second
    whole = Holder.options(num_gpus=3).remote()
    ids, _ = ray.get(whole.seen.remote(), timeout=30)
    assert len(ids) == 3
    assert not set(ids) & set(first[0])


def test_gpus_limit_running_tasks(gate):
    """Tasks wait for GPUs as they do for CPUs."""

    @ray.remote(num_gpus=2, num_cpus=0)
    def hold():
        gate.pass_through()

    refs = [hold.remote() for _ in range(3)]
    wait_for(lambda: len(gate.pids()) == 2, 30)
    assert ray.wait(refs, timeout=0.3)[0] == []
    assert len(gate.pids()) == 2
    gate.open()
    ray.get(refs)


def test_gpu_ids_are_in_the_runtime_context():
    """The runtime context lists the granted GPUs as text."""

    @ray.remote(num_gpus=1)
    def report():
        return ray.get_runtime_context().get_accelerator_ids()["GPU"], [str(i) for i in ray.get_gpu_ids()]

    by_context, by_call = ray.get(report.remote())
    assert by_context == by_call
    assert len(by_call) == 1

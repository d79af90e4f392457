"""OMP_NUM_THREADS in workers: as Ray 2.60 sets it, observed by running it."""

import importlib.util
import os

import pytest

import ray
from support import run_script

pytestmark = [pytest.mark.runtime(num_cpus=4), pytest.mark.limit(20)]


def threads():
    return os.getpid(), os.environ.get("OMP_NUM_THREADS")


@ray.remote
class Threads:
    def __init__(self):
        self.at_start = threads()[1]

    def show(self):
        return self.at_start, threads()[1]


def of_task(**options):
    return ray.get(ray.remote(threads).options(**options).remote())


@pytest.mark.parametrize(("cpus", "expected"), [(None, "1"), (1, "1"), (2, "2"), (3.0, "3"), (0.5, "1"), (0, "1")])
def test_task_has_as_many_threads_as_whole_cpus(cpus, expected):
    """The whole part of num_cpus, at least 1."""
    assert of_task(**({} if cpus is None else {"num_cpus": cpus}))[1] == expected


@pytest.mark.parametrize(("cpus", "expected"), [(None, "1"), (0, "1"), (1, "1"), (2, "2"), (0.5, "1")])
def test_actor_has_as_many_threads_as_whole_cpus(cpus, expected):
    """The constructor sees the number already, methods see the same."""
    actor = Threads.options(**({} if cpus is None else {"num_cpus": cpus})).remote()
    assert ray.get(actor.show.remote()) == (expected, expected)


def test_reused_worker_changes_with_the_call():
    """One process that runs calls of two sizes in turn shows each its own number."""
    seen = {}
    for cpus in (4, 3, 4, 1, 3):
        pid, count = of_task(num_cpus=cpus)
        assert count == str(cpus)
        seen.setdefault(pid, set()).add(count)
    assert max(map(len, seen.values())) > 1, f"no process was used twice: {seen}"


def test_number_is_set_before_the_function_is_unpickled():
    """A library that reads the variable when it is imported, as numpy does while the function is loaded, reads the right one."""

    class AtUnpickling:
        def __reduce__(self):
            return os.getenv, ("OMP_NUM_THREADS",)

    seen = AtUnpickling()
    assert ray.get(ray.remote(num_cpus=2)(lambda: seen).remote()) == "2"


def test_runtime_env_of_the_call_wins():
    """What the user wrote into runtime_env is never replaced."""
    own = {"env_vars": {"OMP_NUM_THREADS": "7"}}
    assert of_task(num_cpus=2, runtime_env=own)[1] == "7"
    assert of_task(num_cpus=2, runtime_env={"env_vars": {"OTHER": "1"}})[1] == "2"


def test_environment_of_the_driver_wins():
    """A variable that was set before `ray.init` reaches every worker as it is; the driver's own is never touched."""
    code = """
import os, ray
ray.init(num_cpus=2, include_dashboard=False)
show = ray.remote(lambda: os.environ.get("OMP_NUM_THREADS"))
print("seen", ray.get([show.remote(), show.options(num_cpus=2).remote()]), os.environ.get("OMP_NUM_THREADS"))
"""
    assert "seen ['5', '5'] 5" in run_script(code, env={"OMP_NUM_THREADS": "5"}).stdout


@pytest.mark.skipif(importlib.util.find_spec("numpy") is None, reason="needs numpy, in the workers only")
def test_blas_starts_with_as_many_threads_as_cpus():
    """numpy's BLAS, imported inside the call, starts no more threads than the call has CPUs."""

    def native_threads():
        before = len(os.listdir("/proc/self/task"))
        import numpy as np

        np.ones((300, 300)) @ np.ones((300, 300))
        return len(os.listdir("/proc/self/task")) - before

    fresh = {"env_vars": {"FRESH_PROCESS": "1"}}
    assert ray.get(ray.remote(native_threads).options(num_cpus=1, runtime_env=fresh).remote()) == 0

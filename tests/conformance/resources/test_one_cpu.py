"""A node with a single CPU must not deadlock."""

import pytest

import ray
from support import is_own, wait_for

pytestmark = [pytest.mark.runtime(num_cpus=1), pytest.mark.limit(25)]


def test_one_cpu_nested_gets_return():
    """A hundred tasks, each waiting for the next, finish on one CPU. (Ray needs a second and 130 MB per level: fewer there.)"""
    depth = 100 if is_own() else 12

    @ray.remote
    def down(n):
        return 0 if n == 0 else 1 + ray.get(down.remote(n - 1))

    assert ray.get(down.remote(depth)) == depth


def test_one_cpu_tree_of_tasks_returns():
    """A tree of tasks that wait for their children finishes."""

    @ray.remote
    def tree(depth):
        return 1 if depth == 0 else sum(ray.get([tree.remote(depth - 1) for _ in range(3)]))

    assert ray.get(tree.remote(2)) == 9


def test_one_cpu_waits_nested_in_actors_return():
    """An actor that takes the CPU and waits for a task lends it."""

    @ray.remote
    def leaf():
        return 1

    @ray.remote(num_cpus=1)
    class Actor:
        def work(self):
            return ray.get(leaf.remote())

    assert ray.get(Actor.remote().work.remote()) == 1


def test_one_cpu_runs_one_task_at_a_time(gate):
    """Without any waiting inside, tasks take turns."""

    @ray.remote
    def hold():
        return gate.pass_through()

    refs = [hold.remote() for _ in range(3)]
    wait_for(lambda: gate.pids(), 30)
    assert ray.wait(refs, timeout=0.3)[0] == []
    assert len(gate.pids()) == 1
    gate.open()
    ray.get(refs)


def test_one_cpu_lent_cpu_is_taken_back_in_turn(gate):
    """A parent whose child runs continues after it, and the node ends up idle."""

    @ray.remote
    def child():
        return gate.pass_through()

    @ray.remote
    def parent():
        return ray.get(child.remote()) > 0

    ref = parent.remote()
    wait_for(lambda: gate.pids(), 30)
    gate.open()
    assert ray.get(ref) is True
    wait_for(lambda: ray.available_resources().get("CPU") == 1)


def test_one_cpu_wait_nested_returns():
    """`ray.wait` inside a task lends the CPU like `get`."""

    @ray.remote
    def leaf(i):
        return i

    @ray.remote
    def parent():
        rest, got = [leaf.remote(i) for i in range(3)], []
        while rest:
            ready, rest = ray.wait(rest)
            got += ray.get(ready)
        return sorted(got)

    assert ray.get(parent.remote()) == [0, 1, 2]

"""Calls of unusual shape that programs nevertheless make."""

import asyncio
import functools
import multiprocessing
import os
import threading

import pytest

import ray

pytestmark = pytest.mark.runtime(num_cpus=4)


def test_call_argument_names_never_collide_with_the_runtimes():
    """Users may call their arguments what they like."""

    @ray.remote
    def f(name, args, kwargs, options, num_returns=0, **rest):
        return name, args, kwargs, options, num_returns, rest

    assert ray.get(f.remote(name=1, args=2, kwargs=3, options=4, num_returns=5, function=6, core=7)) == (1, 2, 3, 4, 5, {"function": 6, "core": 7})


def test_call_positional_only_arguments_are_kept():
    """A signature with `/` holds."""

    @ray.remote
    def f(a, /, b, *, c):
        return a, b, c

    assert ray.get(f.remote(1, 2, c=3)) == (1, 2, 3)
    with pytest.raises(TypeError):
        f.remote(a=1, b=2, c=3)


def test_call_decorated_function_runs_its_wrapper():
    """Other decorators below `@ray.remote` take effect."""

    def twice(function):
        @functools.wraps(function)
        def wrapper(*args, **kwargs):
            return 2 * function(*args, **kwargs)

        return wrapper

    @ray.remote
    @twice
    def f(x, y=1):
        return x + y

    assert ray.get([f.remote(1), f.remote(1, y=4)]) == [4, 10]


def test_call_generator_with_num_returns_fills_the_refs():
    """A generator function with `num_returns=3` yields one value per ref."""

    @ray.remote(num_returns=3)
    def f():
        yield 1
        yield 2
        yield 3

    assert ray.get(f.remote()) == [1, 2, 3]


def test_call_result_of_any_size_around_the_inline_limit_arrives():
    """Values just below and above the size that travels inline arrive alike, as arguments and results."""

    @ray.remote
    def f(data):
        return len(data), data

    for size in (0, 1, 99_000, 100_000, 102_400, 102_401, 110_000, 1_048_576):
        assert ray.get(f.remote(b"x" * size)) == (size, b"x" * size)


def test_call_from_a_thread_of_a_task_works():
    """A thread that a task has started may call and get."""

    @ray.remote
    def leaf(x):
        return x + 1

    @ray.remote
    def parent():
        got = []
        threads = [threading.Thread(target=lambda i=i: got.append(ray.get(leaf.remote(i)))) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return sorted(got)

    assert ray.get(parent.remote()) == [1, 2, 3, 4]


def test_call_task_may_fork_processes():
    """A task may use multiprocessing; its worker goes on afterwards."""

    @ray.remote
    def parent(n):
        with multiprocessing.get_context("fork").Pool(2) as pool:
            return pool.map(abs, range(-n, 0))

    @ray.remote
    def forks():
        pid = os.fork()
        if pid == 0:
            os._exit(0)
        return os.waitpid(pid, 0)[1]

    assert ray.get([parent.remote(3), forks.remote()]) == [[3, 2, 1], 0]
    assert ray.get([parent.remote(2) for _ in range(3)]) == [[2, 1]] * 3


def test_call_task_may_run_an_event_loop():
    """A task may use asyncio and await refs in its own loop."""

    @ray.remote
    def leaf(x):
        return x * 2

    @ray.remote
    def parent():
        async def main():
            return await asyncio.gather(*[leaf.remote(i) for i in range(5)])

        return asyncio.run(main())

    assert ray.get(parent.remote()) == [0, 2, 4, 6, 8]


def test_call_env_vars_reach_nested_tasks():
    """Tasks started by a task inherit its environment variables."""

    @ray.remote
    def child():
        return os.environ.get("HEIRLOOM")

    @ray.remote(runtime_env={"env_vars": {"HEIRLOOM": "ring"}})
    def parent():
        return os.environ.get("HEIRLOOM"), ray.get(child.remote())

    assert ray.get(parent.remote()) == ("ring", "ring")


def test_call_actor_env_vars_are_its_own():
    """An actor can have variables of its own."""

    @ray.remote
    class Actor:
        def read(self):
            return os.environ.get("MODE_OF_ACTOR")

    actor = Actor.options(runtime_env={"env_vars": {"MODE_OF_ACTOR": "fast"}}).remote()
    assert ray.get([actor.read.remote(), Actor.remote().read.remote()]) == ["fast", None]


@pytest.mark.xfail(strict=True, reason="cloudpickle rebuilds a class of __main__ without its slots, so an instance changed elsewhere can't come back")
def test_call_slotted_local_instances_arrive():
    """Instances of classes with `__slots__` travel."""

    class Slotted:
        __slots__ = ("x", "y")

        def __init__(self, x):
            self.x = x

    @ray.remote
    def f(value):
        value.y = value.x + 1
        return value

    got = ray.get(f.remote(Slotted(1)))
    assert (got.x, got.y) == (1, 2)


def test_call_refs_made_by_a_dropped_parent_stay_readable():
    """Refs returned by a task stay readable though the task's own result was dropped."""

    @ray.remote
    def leaf(i):
        return b"y" * 200_000 + bytes([i])

    @ray.remote
    def parent():
        return [leaf.remote(i) for i in range(3)], [ray.put(b"z" * 200_000)]

    leaves, puts = ray.get(parent.remote())
    assert [ray.get(ref)[-1] for ref in leaves] == [0, 1, 2]
    assert ray.get(puts[0])[:1] == b"z"


def test_call_ref_argument_of_a_chain_of_tasks_is_passed_without_waiting(gate):
    """Submitting a task whose arguments don't exist yet returns at once."""

    @ray.remote
    def first():
        gate.pass_through()
        return 1

    @ray.remote
    def add(*values):
        return sum(values)

    ref = first.remote()
    total = add.remote(ref, add.remote(ref, ref), add.remote(add.remote(ref)))
    assert ray.wait([total], timeout=0.1) == ([], [total])
    gate.open()
    assert ray.get(total) == 4

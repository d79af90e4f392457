"""Options of remote functions: what they change and what is refused."""

import os

import pytest

import ray
from support import wait_for

pytestmark = pytest.mark.runtime(num_cpus=4)

BAD_OPTIONS = [
    ({"num_cpu": 1}, ValueError),
    ({"max_restarts": 1}, ValueError),
    ({"lifetime": "detached"}, ValueError),
    ({"num_cpus": -1}, ValueError),
    ({"num_cpus": "1"}, TypeError),
    ({"num_gpus": 1.5}, ValueError),
    ({"memory": -1}, ValueError),
    ({"resources": 3}, TypeError),
    ({"resources": {"CPU": 1}}, ValueError),
    ({"resources": {"GPU": 1}}, ValueError),
    ({"resources": {"x": -1}}, ValueError),
    ({"num_returns": -1}, ValueError),
    ({"num_returns": 1.5}, TypeError),
    ({"max_retries": -2}, ValueError),
    ({"max_retries": 1.5}, TypeError),
    ({"retry_exceptions": "yes"}, TypeError),
    ({"retry_exceptions": [1]}, ValueError),
    ({"max_calls": -1}, ValueError),
    ({"name": 3}, TypeError),
    ({"runtime_env": 3}, TypeError),
    ({"runtime_env": {"env_vars": {"A": 1}}}, TypeError),
]


@ray.remote
def plain():
    return 1


@pytest.mark.parametrize(("options", "error"), BAD_OPTIONS, ids=lambda value: str(value) if isinstance(value, dict) else None)
def test_options_bad_value_is_refused(options, error):
    """A wrong option raises in the caller, at the latest at the call."""
    with pytest.raises(error):
        plain.options(**options).remote()


def test_options_unknown_name_is_refused_when_decorating():
    """An unknown option is found when the function is decorated, and the message names it."""
    with pytest.raises(ValueError, match="num_cpu "):
        ray.remote(num_cpu=1)(lambda: 1)


@pytest.mark.parametrize("target", [3, "text", len])
def test_remote_of_something_else_raises(target):
    """Only functions and classes can be made remote."""
    with pytest.raises((TypeError, AssertionError)):
        ray.remote(target)


def test_remote_with_empty_parentheses_raises():
    """`@ray.remote()` is refused: either no parentheses or some options."""
    with pytest.raises((TypeError, AssertionError)):

        @ray.remote()
        def f():
            return 1


def test_remote_of_coroutine_function_raises_value_error():
    """`async def` is refused for tasks, with a hint."""

    async def f():
        return 1

    with pytest.raises(ValueError, match="async"):
        ray.remote(f)


def test_options_change_one_call_only():
    """`.options()` gives a changed copy; the function itself stays as it was."""

    @ray.remote
    def f():
        return 1, 2

    assert ray.get(f.options(num_returns=2).remote()) == [1, 2]
    assert ray.get(f.remote()) == (1, 2)


def test_options_keep_decorator_values_not_overridden(tally):
    """What `.options()` does not name stays as decorated."""

    @ray.remote(num_returns=2, max_retries=1, retry_exceptions=True)
    def f():
        if tally.add() == 1:
            raise RuntimeError("first attempt")
        return 1, 2

    assert ray.get(f.options(name="other").remote()) == [1, 2]


def test_options_name_is_seen_by_the_task():
    """`name=` is what the task calls itself; by default that is the function's name."""

    @ray.remote
    def task_name():
        return ray.get_runtime_context().get_task_name()

    assert ray.get(task_name.options(name="christened").remote()) == "christened"
    assert "task_name" in ray.get(task_name.remote())


def test_options_env_vars_reach_the_task_only():
    """`runtime_env` variables are set for that task and for no other task, nor in the driver."""

    @ray.remote
    def read():
        return os.environ.get("FLAVOUR_OF_TASK")

    with_it = read.options(runtime_env={"env_vars": {"FLAVOUR_OF_TASK": "vanilla"}})
    assert ray.get([with_it.remote(), read.remote(), with_it.remote()]) == ["vanilla", None, "vanilla"]
    assert "FLAVOUR_OF_TASK" not in os.environ


def test_options_env_vars_differ_per_task():
    """Two tasks with different variables each see their own."""

    @ray.remote
    def read():
        return os.environ.get("FLAVOUR_OF_TASK")

    refs = [read.options(runtime_env={"env_vars": {"FLAVOUR_OF_TASK": str(i)}}).remote() for i in (1, 2)]
    assert ray.get(refs) == ["1", "2"]


def test_max_calls_worker_is_replaced():
    """With `max_calls=2` no process runs more than two calls."""

    @ray.remote(max_calls=2)
    def pid():
        return os.getpid()

    pids = [ray.get(pid.remote()) for _ in range(6)]
    assert max(pids.count(one) for one in pids) <= 2


def test_memory_option_limits_concurrency(gate):
    """`memory=` is a resource like others: what is taken is gone until the task ends."""
    total = ray.cluster_resources()["memory"]

    @ray.remote(memory=int(total * 0.6), num_cpus=0)
    def hold():
        gate.pass_through()

    refs = [hold.remote(), hold.remote()]
    wait_for(lambda: len(gate.pids()) == 1, 30)
    wait_for(lambda: ray.available_resources().get("memory", 0) <= total * 0.5)
    assert len(gate.pids()) == 1
    gate.open()
    ray.get(refs)


def test_options_none_means_default():
    """None stands for an option's default."""
    assert ray.get(plain.options(num_cpus=None, num_returns=None, name=None, resources=None).remote()) == 1

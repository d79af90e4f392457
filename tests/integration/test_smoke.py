"""The shortest walk through everything: what must work on each supported Python before anything else is worth a look."""

import os
import signal

import pytest

import ray

pytestmark = pytest.mark.runtime(num_cpus=2)


@ray.remote
def add(left: int, right: int = 1) -> int:
    return left + right


@ray.remote
class Counter:
    def __init__(self, start: int) -> None:
        self.n = start

    def add(self, by: int) -> int:
        self.n += by
        return self.n


def test_task_returns_its_value() -> None:
    assert ray.get(add.remote(1, right=2)) == 3


def test_task_takes_references() -> None:
    assert ray.get(add.remote(add.remote(1), ray.put(3))) == 5


def test_many_tasks_keep_their_order_in_get() -> None:
    assert ray.get([add.remote(n) for n in range(200)]) == list(range(1, 201))


def test_large_value_survives_the_way_through_shared_memory() -> None:
    value = os.urandom(1 << 20)
    assert ray.get(ray.put(value)) == value


def test_actor_keeps_state_between_calls() -> None:
    counter = Counter.remote(10)
    assert ray.get([counter.add.remote(1) for _ in range(3)]) == [11, 12, 13]


def test_error_arrives_as_the_users_class() -> None:
    @ray.remote
    def fail() -> None:
        raise KeyError("smoke")

    with pytest.raises(KeyError, match="smoke"):
        ray.get(fail.remote())


def test_wait_tells_ready_from_pending() -> None:
    ready, pending = ray.wait([add.remote(1), add.remote(2)], num_returns=2, timeout=10)
    assert (len(ready), pending) == (2, [])


def test_killed_worker_is_told_truly() -> None:
    @ray.remote(max_retries=0)
    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(ray.exceptions.WorkerCrashedError):
        ray.get(die.remote())

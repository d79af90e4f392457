"""Calls of tasks and actors, one at a time and many in flight. usage: calls.py [--only a,b] [--skip a,b]"""

from typing import Any

import harness

BATCH = 1000
KILOBYTE = b"x" * 1024


def define(ray: Any) -> tuple[Any, Any, Any, Any]:
    """(a task, a plain actor class, an async actor class, a class whose instances call other actors)"""

    @ray.remote
    def task(*_: object, **__: object) -> bytes:
        return b"ok"

    @ray.remote(num_cpus=0)
    class Plain:
        def __init__(self) -> None:
            self.calls = 0

        def ping(self, *_: object, **__: object) -> bytes:
            self.calls += 1
            return b"ok"

    @ray.remote(num_cpus=0)
    class Async:
        async def ping(self, *_: object, **__: object) -> bytes:
            return b"ok"

    @ray.remote(num_cpus=0)
    class Caller:
        def __init__(self, actors: list[Any]) -> None:
            self.actors = actors

        def call_all(self, times: int) -> None:
            ray.get([actor.ping.remote() for _ in range(times) for actor in self.actors])

    ray.get([task.remote() for _ in range(100)])
    return task, Plain, Async, Caller


def tasks() -> None:
    ray = harness.connect()
    task, *_ = define(ray)
    harness.emit("tasks_sync", harness.rate(lambda: ray.get(task.remote())), "tasks/s", better="higher")
    harness.emit("tasks_async", in_flight(ray, task.remote), "tasks/s", better="higher")
    harness.emit("tasks_async_10k", 10_000 / harness.seconds(lambda: ray.get([task.remote() for _ in range(10_000)])), "tasks/s", better="higher")


def task_arguments() -> None:
    """The same rates with arguments, so that no shortcut for an empty call hides what a call costs."""
    ray = harness.connect()
    task, *_ = define(ray)
    each_argument(ray, "tasks", task.remote)


def actor_arguments() -> None:
    ray = harness.connect()
    actor = define(ray)[1].remote()
    each_argument(ray, "actor", actor.ping.remote)


def each_argument(ray: Any, name: str, remote: Any) -> None:
    for label, args, kwargs in (("int", (7,), {}), ("keyword", (), {"number": 7}), ("1kb", (KILOBYTE,), {})):
        sync = harness.rate(lambda args=args, kwargs=kwargs: ray.get(remote(*args, **kwargs)))
        harness.emit(f"{name}_sync_{label}", sync, "calls/s", better="higher")
        harness.emit(f"{name}_async_{label}", in_flight(ray, remote, *args, **kwargs), "calls/s", better="higher")


def in_flight(ray: Any, remote: Any, *args: object, **kwargs: object) -> float:
    return harness.rate(lambda: ray.get([remote(*args, **kwargs) for _ in range(BATCH)]), BATCH, window_s=1.5)


def actors() -> None:
    ray = harness.connect()
    _, plain, *_ = define(ray)
    actor = plain.remote()
    harness.emit("actor_sync", harness.rate(lambda: ray.get(actor.ping.remote())), "calls/s", better="higher")
    harness.emit("actor_async", in_flight(ray, actor.ping.remote), "calls/s", better="higher")
    threaded = plain.options(max_concurrency=16).remote()
    harness.emit("threaded_actor_async", in_flight(ray, threaded.ping.remote), "calls/s", better="higher")


def async_actors() -> None:
    ray = harness.connect()
    actor = define(ray)[2].remote()
    harness.emit("async_actor_sync", harness.rate(lambda: ray.get(actor.ping.remote())), "calls/s", better="higher")
    harness.emit("async_actor_async", in_flight(ray, actor.ping.remote), "calls/s", better="higher")


def actors_2x2() -> None:
    ray = harness.connect()
    _, plain, _, caller = define(ray)
    called = [plain.remote() for _ in range(2)]
    callers = [caller.remote(called) for _ in range(2)]
    ray.get([one.call_all.remote(10) for one in callers])
    rate = harness.rate(lambda: ray.get([one.call_all.remote(500) for one in callers]), 2 * 2 * 500)
    harness.emit("actors_2x2_async", rate, "calls/s", better="higher")


if __name__ == "__main__":
    harness.sections(
        {
            "tasks": tasks,
            "task_arguments": task_arguments,
            "actors": actors,
            "actor_arguments": actor_arguments,
            "async_actors": async_actors,
            "actors_2x2": actors_2x2,
        }
    )

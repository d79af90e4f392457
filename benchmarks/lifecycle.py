"""Actors and placement groups come and go; workers die; calls are cancelled. usage: lifecycle.py [--only a,b] [--skip a,b]"""

import asyncio
import itertools
import os
import signal
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import harness

PAUSE_S = 2.0


def define(ray: Any) -> Any:
    @ray.remote(num_cpus=0)
    class Actor:
        def pid(self) -> int:
            return os.getpid()

    ray.get(Actor.remote().pid.remote())
    return Actor


def actor_creation() -> None:
    ray = harness.connect()
    actor_class = define(ray)
    harness.emit("actor_create_one", 1e3 * harness.seconds(lambda: create(ray, actor_class, 1), 5), "ms", better="lower")
    time.sleep(PAUSE_S)
    rates = []
    for _ in range(3):
        rates.append(create(ray, actor_class, 20))
        time.sleep(PAUSE_S)
    harness.emit("actor_create_20", sorted(rates)[1], "actors/s", better="higher")


def create(ray: Any, actor_class: Any, count: int) -> float:
    """Create, call and kill; returns actors per second up to the answer of the last."""
    started = time.perf_counter()
    actors = [actor_class.remote() for _ in range(count)]
    ray.get([actor.pid.remote() for actor in actors])
    rate = count / (time.perf_counter() - started)
    for actor in actors:
        ray.kill(actor)
    return rate


def actors_1000() -> None:
    """Not asked of Ray, which starts two a second on two cores."""
    ray = harness.connect()
    if harness.own_engine():
        harness.emit("actor_create_1000", 1000 / create(ray, define(ray), 1000), "s", better="lower")


def placement_groups() -> None:
    ray = harness.connect()
    from ray.util.placement_group import placement_group, remove_placement_group

    def one() -> None:
        group = placement_group([{"CPU": 0.5}, {"CPU": 0.5}])
        assert group.wait(10)
        remove_placement_group(group)

    def hundred() -> None:
        groups = [placement_group([{"CPU": 0.001}]) for _ in range(100)]
        assert all(group.wait(10) for group in groups)
        for group in groups:
            remove_placement_group(group)

    ray.get(ray.put(0))
    harness.emit("placement_group_one", 1e3 / harness.rate(one), "ms", better="lower")
    harness.emit("placement_group_100", harness.rate(hundred, 100), "groups/s", better="higher")


def task_retry() -> None:
    ray = harness.connect()

    @ray.remote(max_retries=3)
    def die_once(mark: str) -> int:
        if not Path(mark).exists():
            Path(mark).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return 1

    with tempfile.TemporaryDirectory() as folder:
        marks = iter(f"{folder}/{n}" for n in range(4))
        ray.get(die_once.remote(next(marks)))
        harness.emit("task_retry", 1e3 * harness.seconds(lambda: ray.get(die_once.remote(next(marks)), timeout=60), 3), "ms", better="lower")


def actor_restart() -> None:
    ray = harness.connect()
    actor = define(ray).options(max_restarts=-1, max_task_retries=-1).remote()

    def restart() -> None:
        before = ray.get(actor.pid.remote())
        os.kill(before, signal.SIGKILL)
        while ray.get(actor.pid.remote(), timeout=60) == before:
            pass

    harness.emit("actor_restart", 1e3 * harness.seconds(restart, 3), "ms", better="lower")


def actor_death() -> None:
    """From the kill to the error at the caller."""
    ray = harness.connect()
    actor = define(ray).remote()
    pid = ray.get(actor.pid.remote())
    started = time.perf_counter()
    os.kill(pid, signal.SIGKILL)
    try:
        while True:
            ray.get(actor.pid.remote(), timeout=60)
    except ray.exceptions.RayActorError:
        harness.emit("actor_death_to_error", 1e3 * (time.perf_counter() - started), "ms", better="lower")


def cancel() -> None:
    """From `ray.cancel` to the error at the caller: a task in line, a running one, and a coroutine of an actor."""
    ray = harness.connect()

    @ray.remote
    def sleep(mark: str) -> None:
        Path(mark).touch()
        while True:
            time.sleep(0.01)

    @ray.remote
    class Sleeper:
        async def sleep(self, mark: str) -> None:
            Path(mark).touch()
            await asyncio.sleep(3600)

    def cancelled_s(ref: Any) -> float:
        started = time.perf_counter()
        ray.cancel(ref)
        try:
            ray.get(ref, timeout=60)
        except ray.exceptions.TaskCancelledError:
            return time.perf_counter() - started
        raise AssertionError("a task that never ends returned a value")

    def running(call: Any) -> Any:
        mark = f"{folder}/{next(numbers)}"
        ref = call.remote(mark)
        while not Path(mark).exists():
            time.sleep(0.001)
        return ref

    def emit_median(name: str, make: Callable[[], Any], times: int) -> None:
        harness.emit(name, 1e3 * statistics.median(cancelled_s(make()) for _ in range(times)), "ms", better="lower")

    numbers = itertools.count()
    with tempfile.TemporaryDirectory() as folder:
        emit_median("cancel_running", lambda: running(sleep), 20)
        actor = Sleeper.options(num_cpus=0).remote()
        emit_median("cancel_coroutine", lambda: running(actor.sleep), 20)
        holders = [running(sleep) for _ in range(int(ray.cluster_resources()["CPU"]))]
        emit_median("cancel_queued", lambda: sleep.remote(f"{folder}/never"), 50)
        for holder in holders:
            cancelled_s(holder)


if __name__ == "__main__":
    harness.sections(
        {
            "actor_creation": actor_creation,
            "actors_1000": actors_1000,
            "placement_groups": placement_groups,
            "task_retry": task_retry,
            "actor_restart": actor_restart,
            "actor_death": actor_death,
            "cancel": cancel,
        }
    )

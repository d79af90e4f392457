"""Cancelling calls that run, wait, or are borrowed on other nodes; and nodes that die meanwhile."""

import asyncio
import time

import numpy as np
import pytest

import ray
from ray.exceptions import TaskCancelledError, WorkerCrashedError
from support import is_alive, wait_for
from support.cancelling import assert_cancelled, doze
from support.clusters import here, near, on, wait_until_dead, wait_until_free

pytestmark = pytest.mark.limit(40)


@ray.remote(num_cpus=0)
def sleeper(tally, word="x"):
    import os

    doze(tally, word, first=f"{word}:{os.getpid()}")


@ray.remote(num_cpus=0)
def identity(value):
    return value


@ray.remote(num_cpus=0)
def canceller(box, **options):
    ray.cancel(box[0], **options)
    return here()


@ray.remote(num_cpus=0)
def parent(tally, tag):
    return ray.get(on(sleeper, tag).remote(tally, "child"))


@ray.remote(num_cpus=0)
def generator(tally):
    yield from range(3)
    tally.add("three")
    while True:
        time.sleep(0.01)


@ray.remote(num_cpus=0)
class Async:
    async def sleep(self, tally):
        tally.add("x")
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            tally.add("x:CancelledError")
            raise

    async def ok(self):
        return here()


def pid_of(tally, word="x"):
    def found():
        return [int(text.split(":")[1]) for text in tally.words() if text.startswith(f"{word}:") and text.split(":")[1].isdigit()]

    return wait_for(found, 20)[0]


def test_cancel_running_task_of_another_node(n2, tally):
    """It is interrupted there, and its worker takes the next task."""
    ref = on(sleeper, n2).remote(tally)
    pid_of(tally)
    ray.cancel(ref)
    assert_cancelled(ref, 20)
    wait_for(lambda: "x:KeyboardInterrupt" in tally.words(), 15)
    assert ray.get(on(identity, n2).remote(3), timeout=20) == 3


def test_cancel_by_force_on_another_node(n2, tally):
    """Its process ends there, and nothing is retried."""
    ref = on(sleeper, n2, max_retries=5).remote(tally)
    pid = pid_of(tally)
    ray.cancel(ref, force=True)
    assert_cancelled(ref, 20)
    wait_for(lambda: not is_alive(pid), 15)
    assert ray.get(on(identity, n2).remote(3), timeout=20) == 3
    assert len(tally.words()) == 1


def test_cancel_queued_task_for_another_node(n2, tally):
    """A task that another node was asked for is taken back: the node gives its CPU to the next one."""
    holder = on(sleeper, n2, num_cpus=1).remote(tally, "holder")
    pid_of(tally, "holder")
    ref = on(sleeper, n2, num_cpus=1).remote(tally, "queued")
    ray.cancel(ref)
    assert_cancelled(ref, 20)
    ray.cancel(holder)
    assert_cancelled(holder, 20)
    assert ray.get(on(identity, n2, num_cpus=1).remote(4), timeout=20) == 4
    assert not any(word.startswith("queued") for word in tally.words())


def test_cancel_reaches_children_on_a_third_node(n2, n3, tally):
    """The child of a task runs on yet another node, and is interrupted with it."""
    ref = on(parent, n2).remote(tally, n3.tag)
    pid_of(tally, "child")
    ray.cancel(ref)
    assert_cancelled(ref, 20)
    wait_for(lambda: "child:KeyboardInterrupt" in tally.words(), 15)


def test_cancel_by_force_reaches_children_on_a_third_node(n2, n3, tally):
    """With force the child's process ends, too, although its owner is gone by then."""
    ref = on(parent, n2).remote(tally, n3.tag)
    pid = pid_of(tally, "child")
    ray.cancel(ref, force=True)
    assert_cancelled(ref, 20)
    wait_for(lambda: not is_alive(pid), 15)


def test_cancel_by_a_borrower_on_another_node(n2, tally):
    """The owner is asked, over the network, and answers."""
    ref = sleeper.remote(tally)
    pid_of(tally)
    assert ray.get(on(canceller, n2).remote([ref]), timeout=20) == n2.id
    assert_cancelled(ref, 20)


def test_cancel_by_force_of_a_method_by_a_borrower_is_refused(n2, tally):
    """The owner's refusal reaches the borrower as a ValueError."""
    actor = Async.remote()
    ref = actor.sleep.remote(tally)
    wait_for(lambda: "x" in tally.words())
    with pytest.raises(ValueError, match="force"):
        ray.get(on(canceller, n2).remote([ref], force=True), timeout=20)
    ray.cancel(ref)
    assert_cancelled(ref, 20)


def test_cancel_coroutine_of_another_node(n2, tally):
    """An async actor on another node cancels its coroutine."""
    actor = on(Async, n2).remote()
    ref = actor.sleep.remote(tally)
    wait_for(lambda: "x" in tally.words(), 20)
    ray.cancel(ref)
    assert_cancelled(ref, 20)
    wait_for(lambda: "x:CancelledError" in tally.words(), 15)
    assert ray.get(actor.ok.remote(), timeout=20) == n2.id


def test_cancel_generator_of_another_node(n2, tally):
    """Its items arrive, then the cancellation."""
    items = on(generator, n2).remote(tally)
    wait_for(lambda: "three" in tally.words(), 20)
    ray.cancel(items)
    got = []
    for ref in items:
        try:
            got.append(ray.get(ref, timeout=20))
        except TaskCancelledError:
            got.append("cancelled")
    assert got == [0, 1, 2, "cancelled"]


def test_cancel_then_the_node_dies(nodes, n2, tally):
    """A cancelled task whose node dies before it ends is cancelled, and not tried elsewhere."""

    @ray.remote(num_cpus=0, max_retries=5)
    def deaf():
        tally.add("deaf")
        while True:
            try:
                time.sleep(0.01)
            except KeyboardInterrupt:
                tally.add("told")

    ref = near(deaf, n2).remote()
    wait_for(lambda: "deaf" in tally.words(), 20)
    ray.cancel(ref)
    wait_for(lambda: "told" in tally.words(), 15)
    nodes.kill(n2)
    with pytest.raises((TaskCancelledError, WorkerCrashedError)):
        ray.get(ref, timeout=20)
    assert tally.words().count("deaf") == 1


def test_cancel_a_reconstruction(nodes, n2, tally):
    """A lost value that is being made again can be cancelled: then it is lost for good, and nothing is left behind."""

    @ray.remote(num_cpus=0, max_retries=3)
    def make():
        if tally.add("make") > 1:
            while True:
                time.sleep(0.01)
        return np.ones(200_000)

    ref = near(make, n2).remote()
    ray.wait([ref], timeout=20, fetch_local=False)
    nodes.kill(n2)
    wait_until_dead(n2)
    wait_for(lambda: tally.count() == 2, 20)
    ray.cancel(ref)
    assert_cancelled(ref, 20)
    assert tally.count() == 2


def test_cancelled_calls_leave_nothing_behind(n2, tally):
    """Arguments, leases and objects are free again everywhere."""
    large = ray.put(np.ones(200_000))
    refs = [on(sleeper, n2).remote(tally, f"x{i}") for i in range(2)]
    waits = identity.remote(refs[0])
    takes = on(sleeper, n2, num_cpus=1).remote(tally, [large])
    for i in range(2):
        pid_of(tally, f"x{i}")
    for ref in (waits, takes, *refs):
        ray.cancel(ref)
    for ref in (waits, takes, *refs):
        assert_cancelled(ref, 20)
    del large, refs, waits, takes, ref
    wait_until_free()

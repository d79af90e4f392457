"""`ray.cancel` in local mode: calls in line never run, coroutines are cancelled, and code that runs in a thread can ask."""

import asyncio

import pytest

import ray
from support import wait_for
from support.cancelling import assert_cancelled

pytestmark = pytest.mark.runtime(local_mode=True, num_cpus=2)


@ray.remote
def identity(value):
    return value


@ray.remote
def hold(gate):
    gate.pass_through()
    return "held"


def test_cancel_queued_task_never_runs(tally, gate):
    """Behind tasks that hold every CPU a cancelled one never starts, nor what depends on it."""

    @ray.remote
    def never():
        tally.add("never")

    holders = [hold.remote(gate) for _ in range(2)]
    wait_for(lambda: gate.arrivals.count() == 2)
    ref = never.remote()
    dependent = identity.remote(ref)
    ray.cancel(ref)
    assert_cancelled(ref, 10)
    gate.open()
    assert_cancelled(dependent, 10)
    assert ray.get(holders) == ["held", "held"]
    assert tally.words() == []


def test_cancel_coroutine_of_an_actor(tally):
    """It sees asyncio.CancelledError, and the actor goes on."""

    @ray.remote
    class Actor:
        async def sleep(self):
            tally.add("x")
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                tally.add("cancelled")
                raise

        async def ok(self):
            return "ok"

    actor = Actor.remote()
    ref = actor.sleep.remote()
    wait_for(lambda: "x" in tally.words())
    ray.cancel(ref)
    assert_cancelled(ref, 10)
    assert "cancelled" in tally.words()
    assert ray.get(actor.ok.remote()) == "ok"


def test_cancel_running_task_can_be_noticed(tally):
    """`is_canceled()` becomes true in the task; in the driver it is false."""

    @ray.remote
    def until_canceled():
        tally.add("x")
        wait_for(lambda: ray.get_runtime_context().is_canceled())
        return "noticed"

    ref = until_canceled.remote()
    wait_for(lambda: "x" in tally.words())
    ray.cancel(ref)
    assert ray.get(ref, timeout=10) == "noticed"
    assert ray.get_runtime_context().is_canceled() is False


def test_cancel_by_force_throws_the_result_away(tally, gate):
    """The caller has the cancellation at once; the thread runs on to its end."""

    @ray.remote
    def hold():
        gate.pass_through()
        tally.add("done")
        return 1

    ref = hold.remote()
    wait_for(lambda: gate.arrivals.count() == 1)
    ray.cancel(ref, force=True)
    assert_cancelled(ref, 10)
    gate.open()
    wait_for(lambda: "done" in tally.words())
    assert_cancelled(ref, 10)


def test_cancel_reaches_children_that_wait(tally, gate):
    """What a cancelled call has submitted is cancelled, too."""

    @ray.remote(num_cpus=2)
    def never():
        tally.add("never")

    @ray.remote(num_cpus=0)
    def mother():
        child = never.remote()
        tally.add("submitted")
        wait_for(lambda: ray.get_runtime_context().is_canceled())
        return [child]

    holder = hold.remote(gate)
    wait_for(lambda: gate.arrivals.count() == 1)
    ref = mother.remote()
    wait_for(lambda: "submitted" in tally.words())
    ray.cancel(ref)
    (child,) = ray.get(ref, timeout=10)
    assert_cancelled(child, 10)
    gate.open()
    assert ray.get(holder) == "held"
    assert tally.words() == ["submitted"]


def test_cancel_of_a_method_by_force_is_refused(gate):
    """As on the engine."""

    @ray.remote
    class Actor:
        def hold(self):
            gate.pass_through()
            return 1

    actor = Actor.remote()
    ref = actor.hold.remote()
    wait_for(lambda: gate.arrivals.count() == 1)
    with pytest.raises(ValueError, match="force"):
        ray.cancel(ref, force=True)
    gate.open()
    assert ray.get(ref, timeout=10) == 1


def test_cancel_generator_stops_at_its_next_yield(tally):
    """The items made so far are read; then comes the cancellation."""

    @ray.remote
    def count():
        i = 0
        try:
            while True:
                yield i
                i += 1
        finally:
            tally.add("closed")

    generator = count.options(_generator_backpressure_num_objects=2).remote()
    assert ray.get(next(generator), timeout=10) == 0
    ray.cancel(generator)
    wait_for(lambda: "closed" in tally.words())
    *items, last = list(generator)
    assert ray.get(items) == list(range(1, 1 + len(items)))
    assert_cancelled(last, 10)

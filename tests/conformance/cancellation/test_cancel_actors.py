"""`ray.cancel` of calls of actors: sync, threaded and async ones, in line and running."""

import asyncio
import time

import pytest

import ray
from support import wait_for
from support.cancelling import assert_cancelled

pytestmark = [pytest.mark.runtime(num_cpus=4), pytest.mark.limit(30)]


@ray.remote
class Plain:
    def pass_through(self, gate):
        gate.pass_through()
        return "passed"

    def until_canceled(self, tally):
        tally.add("started")
        while not ray.get_runtime_context().is_canceled():
            time.sleep(0.01)
        tally.add("noticed")
        return "noticed"

    def note(self, tally, word):
        tally.add(word)
        return word

    def is_canceled(self):
        return ray.get_runtime_context().is_canceled()


@ray.remote
class Async:
    async def sleep(self, tally, word="x"):
        tally.add(word)
        try:
            await asyncio.sleep(3600)
        except BaseException as error:
            tally.add(f"{word}:{type(error).__name__}:{ray.get_runtime_context().is_canceled()}")
            raise

    async def swallow(self, tally):
        tally.add("x")
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            return "swallowed"

    async def raise_other(self, tally):
        tally.add("x")
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            raise ValueError("while cleaning up") from None

    async def wait_for_ref(self, box, tally):
        tally.add("waits")
        return await box[0]

    async def ok(self):
        return "ok"


def test_cancel_running_method_can_be_noticed(tally):
    """A running method of a sync actor is not interrupted; `is_canceled()` becomes true."""
    actor = Plain.remote()
    ref = actor.until_canceled.remote(tally)
    wait_for(lambda: "started" in tally.words())
    ray.cancel(ref)
    wait_for(lambda: "noticed" in tally.words(), timeout_s=15)
    assert_cancelled(ref)
    assert ray.get(actor.note.remote(tally, "next"), timeout=15) == "next"


def test_cancel_running_method_leaves_the_actor_whole(tally, gate):
    """A method that does not look runs to its end, what it returns is thrown away, and the actor goes on."""
    actor = Plain.options(max_concurrency=2).remote()
    ref = actor.pass_through.remote(gate)
    wait_for(lambda: gate.arrivals.count() == 1)
    ray.cancel(ref)
    ray.get(actor.note.remote(tally, "behind"), timeout=15)  # what was said before it is known there, too
    gate.open()
    assert_cancelled(ref)
    assert ray.get(actor.note.remote(tally, "next"), timeout=15) == "next"
    assert ray.get(actor.is_canceled.remote(), timeout=15) is False


def test_cancel_queued_method_never_runs(tally, gate):
    """A call in the actor's line is taken out; those before and behind it run."""
    actor = Plain.remote()
    first = actor.pass_through.remote(gate)
    wait_for(lambda: gate.arrivals.count() == 1)
    second, third = actor.note.remote(tally, "second"), actor.note.remote(tally, "third")
    ray.cancel(second)
    gate.open()
    assert ray.get(first, timeout=15) == "passed"
    assert ray.get(third, timeout=15) == "third"
    assert_cancelled(second)
    assert tally.words() == ["third"]


def test_cancel_method_that_waits_for_its_arguments(tally, gate):
    """It ends at once, and the calls behind it go on."""
    actor, other = Plain.remote(), Plain.remote()
    argument = other.pass_through.remote(gate)
    waits, behind = actor.note.remote(tally, argument), actor.note.remote(tally, "behind")
    ray.cancel(waits)
    assert ray.get(behind, timeout=15) == "behind"
    assert_cancelled(waits)
    gate.open()
    assert ray.get(argument, timeout=15) == "passed"


def test_cancel_by_force_of_a_method_is_refused(gate):
    """`force=True` on a call of an actor is a ValueError, and nothing happens to it."""
    actor = Plain.remote()
    ref = actor.pass_through.remote(gate)
    wait_for(lambda: gate.arrivals.count() == 1)
    with pytest.raises(ValueError, match="force"):
        ray.cancel(ref, force=True)
    gate.open()
    assert ray.get(ref, timeout=15) == "passed"


def test_cancelled_method_that_raises_gives_its_error(tally):
    """A method of a sync actor that raises after it was cancelled has that error."""

    @ray.remote
    class Raises:
        def until_canceled(self):
            tally.add("started")
            while not ray.get_runtime_context().is_canceled():
                time.sleep(0.01)
            raise ValueError("noticed")

    ref = Raises.remote().until_canceled.remote()
    wait_for(lambda: "started" in tally.words())
    ray.cancel(ref)
    with pytest.raises(ValueError, match="noticed"):
        ray.get(ref, timeout=15)


def test_coroutine_that_cancels_itself_is_cancelled():
    """asyncio.CancelledError out of a coroutine is a cancellation, whoever raised it."""

    @ray.remote
    class Own:
        async def cancel(self):
            raise asyncio.CancelledError

    assert_cancelled(Own.remote().cancel.remote())


def test_cancel_of_an_actor_is_a_type_error():
    """An actor's handle is no reference."""
    with pytest.raises(TypeError):
        ray.cancel(Plain.remote())


def test_cancel_threaded_method_can_be_noticed(tally):
    """In an actor with several threads only the cancelled call sees the flag."""
    actor = Plain.options(max_concurrency=3).remote()
    ref = actor.until_canceled.remote(tally)
    wait_for(lambda: "started" in tally.words())
    assert ray.get(actor.is_canceled.remote(), timeout=15) is False
    ray.cancel(ref)
    wait_for(lambda: "noticed" in tally.words(), timeout_s=15)
    assert ray.get(actor.is_canceled.remote(), timeout=15) is False


def test_cancel_coroutine_raises_cancelled_error_in_it(tally):
    """A coroutine of an async actor sees asyncio.CancelledError, and its caller TaskCancelledError."""
    actor = Async.remote()
    ref = actor.sleep.remote(tally)
    wait_for(lambda: "x" in tally.words())
    ray.cancel(ref)
    assert_cancelled(ref)
    wait_for(lambda: "x:CancelledError:True" in tally.words(), timeout_s=15)
    assert ray.get(actor.ok.remote(), timeout=15) == "ok"


def test_cancel_coroutine_leaves_its_siblings(tally):
    """Only the cancelled one ends."""
    actor = Async.remote()
    refs = [actor.sleep.remote(tally, f"c{i}") for i in range(3)]
    wait_for(lambda: len(tally.words()) == 3)
    ray.cancel(refs[1])
    assert_cancelled(refs[1])
    assert ray.wait([refs[0], refs[2]], num_returns=2, timeout=0.2)[0] == []
    ray.cancel(refs[0])
    ray.cancel(refs[2])
    assert_cancelled(refs[0])
    assert_cancelled(refs[2])


def test_cancel_coroutine_that_waits_for_room(tally):
    """A call beyond `max_concurrency` never starts."""
    actor = Async.options(max_concurrency=1).remote()
    first = actor.sleep.remote(tally, "first")
    wait_for(lambda: "first" in tally.words())
    second = actor.sleep.remote(tally, "second")
    ray.cancel(second)
    ray.cancel(first)
    assert_cancelled(first)
    assert_cancelled(second)
    assert ray.get(actor.ok.remote(), timeout=15) == "ok"
    assert "second" not in tally.words()


def test_cancelled_coroutine_that_raises_another_error_is_cancelled(tally):
    """Whatever a cancelled coroutine raises, its caller gets the cancellation."""
    actor = Async.remote()
    ref = actor.raise_other.remote(tally)
    wait_for(lambda: "x" in tally.words())
    ray.cancel(ref)
    assert_cancelled(ref)


def test_cancelled_coroutine_that_returns_is_cancelled(tally):
    """So it is with what it returns."""
    actor = Async.remote()
    ref = actor.swallow.remote(tally)
    wait_for(lambda: "x" in tally.words())
    ray.cancel(ref)
    assert_cancelled(ref)
    assert ray.get(actor.ok.remote(), timeout=15) == "ok"


def test_cancel_coroutine_that_awaits_a_reference(tally, gate):
    """The await ends, and the awaited object is there for others."""
    actor, other = Async.remote(), Plain.remote()
    awaited = other.pass_through.remote(gate)
    ref = actor.wait_for_ref.remote([awaited], tally)
    wait_for(lambda: "waits" in tally.words())
    ray.cancel(ref, recursive=False)
    assert_cancelled(ref)
    gate.open()
    assert ray.get(awaited, timeout=15) == "passed"


def test_cancel_with_retries_does_not_run_again(tally):
    """`max_task_retries` does not repeat a cancelled call."""
    actor = Async.options(max_restarts=1, max_task_retries=5).remote()
    ref = actor.sleep.remote(tally)
    wait_for(lambda: "x" in tally.words())
    ray.cancel(ref)
    assert_cancelled(ref)
    assert ray.get(actor.ok.remote(), timeout=15) == "ok"
    assert tally.words().count("x") == 1


def test_cancel_finished_method_changes_nothing():
    """What has ended keeps its value."""
    actor = Async.remote()
    ref = actor.ok.remote()
    assert ray.get(ref, timeout=15) == "ok"
    ray.cancel(ref)
    assert ray.get(ref, timeout=15) == "ok"


def test_cancel_of_a_dead_actors_call_keeps_its_error(gate):
    """A call that its actor's death has ended stays as it is."""
    from ray.exceptions import ActorDiedError

    actor = Plain.remote()
    ref = actor.pass_through.remote(gate)
    wait_for(lambda: gate.arrivals.count() == 1)
    ray.kill(actor)
    with pytest.raises(ActorDiedError):
        ray.get(ref, timeout=15)
    ray.cancel(ref)
    with pytest.raises(ActorDiedError):
        ray.get(ref, timeout=15)

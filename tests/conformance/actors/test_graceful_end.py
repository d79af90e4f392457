"""Actors that end in good order: what they still do, what their callers see, and what leaves them no time."""

import asyncio
import atexit
import os
import sys
import threading

import pytest

import ray
from ray.exceptions import ActorDiedError, RayActorError
from support import is_alive, wait_for

pytestmark = [pytest.mark.runtime(num_cpus=4), pytest.mark.limit(20)]


class Mindful:
    """Writes down how it ends."""

    def __init__(self, tally):
        self.tally = tally
        atexit.register(tally.add, "atexit")

    def __ray_shutdown__(self):
        self.tally.add("shutdown")

    def pid(self):
        return os.getpid()

    def note(self, word):
        self.tally.add(word)
        return word

    def hold(self, gate):
        gate.pass_through()
        return "held"

    def leave(self):
        ray.actor.exit_actor()

    def leave_from_inside(self):
        def inner():
            try:
                ray.actor.exit_actor()
            except Exception:
                self.tally.add("caught")

        inner()
        self.tally.add("went on")

    def leave_with_cleanup(self):
        try:
            ray.actor.exit_actor()
        finally:
            self.tally.add("finally")

    def quit(self):
        sys.exit(0)

    def count_and_leave(self):
        yield 1
        yield 2
        ray.actor.exit_actor()

    def leave_from_a_task(self):
        @ray.remote(num_cpus=0)
        def leave():
            ray.actor.exit_actor()

        return ray.get(leave.remote())


class MindfulAsync(Mindful):
    async def apid(self):
        return os.getpid()

    async def wait(self, gate):
        self.tally.add("waits")
        await asyncio.get_running_loop().run_in_executor(None, gate.pass_through)
        return "waited"

    async def aleave(self):
        ray.actor.exit_actor()


def made(cls, tally, **options):
    """An actor that has answered, and its pid."""
    actor = ray.remote(**options)(cls).remote(tally) if options else ray.remote(cls).remote(tally)
    return actor, ray.get(actor.pid.remote())


def ends(pid):
    wait_for(lambda: not is_alive(pid), 15)


def test_last_handle_gone_runs_the_hook_then_atexit(tally):
    """When the last handle goes, `__ray_shutdown__` is called, then the exit handlers."""
    actor, pid = made(Mindful, tally)
    del actor
    ends(pid)
    assert tally.words() == ["shutdown", "atexit"]


def test_last_handle_gone_runs_queued_calls_before_the_hook(tally):
    """Calls made before the last handle went are run first."""
    actor, pid = made(Mindful, tally)
    refs = [actor.note.remote(i) for i in range(3)]
    del actor
    assert ray.get(refs) == [0, 1, 2]
    del refs
    ends(pid)
    assert tally.words() == ["0", "1", "2", "shutdown", "atexit"]


def test_terminate_ends_an_actor_in_good_order(tally):
    """`__ray_terminate__` ends the actor after the calls before it; its own reference and later calls raise."""
    actor, pid = made(Mindful, tally)
    before = actor.note.remote("before")
    with pytest.raises(RayActorError):
        ray.get(actor.__ray_terminate__.remote())
    assert ray.get(before) == "before"
    with pytest.raises(ActorDiedError):
        ray.get(actor.pid.remote())
    ends(pid)
    assert tally.words() == ["before", "shutdown", "atexit"]


def test_terminate_is_no_failure_to_restart_after(tally):
    """An actor that was asked to end does not come back, restarts or not."""
    actor, pid = made(Mindful, tally, max_restarts=3)
    with pytest.raises(RayActorError):
        ray.get(actor.__ray_terminate__.remote())
    ends(pid)
    with pytest.raises(ActorDiedError):
        ray.get(actor.pid.remote())


def test_terminate_of_an_async_actor_ends_it(tally):
    """The event loop is no obstacle."""
    actor, pid = made(MindfulAsync, tally)
    with pytest.raises(RayActorError):
        ray.get(actor.__ray_terminate__.remote())
    ends(pid)
    assert tally.words() == ["shutdown", "atexit"]


def test_exit_actor_runs_the_hook_and_atexit(tally):
    """Leaving by itself is good order, too."""
    actor, pid = made(Mindful, tally)
    with pytest.raises(ActorDiedError):
        ray.get(actor.leave.remote())
    ends(pid)
    assert tally.words() == ["shutdown", "atexit"]


def test_exit_actor_from_an_inner_function_is_not_caught_as_an_error(tally):
    """`except Exception` does not stop an actor that leaves."""
    actor, pid = made(Mindful, tally)
    with pytest.raises(ActorDiedError):
        ray.get(actor.leave_from_inside.remote())
    ends(pid)
    assert "caught" not in tally.words() and "went on" not in tally.words()


def test_exit_actor_runs_finally_blocks(tally):
    """It unwinds the method."""
    actor, pid = made(Mindful, tally)
    with pytest.raises(ActorDiedError):
        ray.get(actor.leave_with_cleanup.remote())
    ends(pid)
    assert tally.words()[0] == "finally"


def test_exit_actor_in_a_coroutine_lets_others_finish(tally, gate):
    """Coroutines that run go on to their end; then the actor ends, and calls made meanwhile fail."""
    actor, pid = made(MindfulAsync, tally)
    waiting = actor.wait.remote(gate)
    wait_for(gate.pids)
    leaving = actor.aleave.remote()
    assert ray.wait([leaving], timeout=0.3) == ([], [leaving])
    gate.open()
    assert ray.get(waiting) == "waited"
    with pytest.raises(ActorDiedError):
        ray.get(leaving)
    with pytest.raises(ActorDiedError):
        ray.get(actor.apid.remote())
    ends(pid)
    assert tally.words() == ["waits", "shutdown", "atexit"]


def test_exit_actor_in_a_plain_method_of_an_async_actor_ends_it(tally):
    """It need not be a coroutine that leaves."""
    actor, pid = made(MindfulAsync, tally)
    with pytest.raises(ActorDiedError):
        ray.get(actor.leave.remote())
    ends(pid)


def test_exit_actor_in_one_of_several_threads_lets_others_finish(tally, gate):
    """A threaded actor ends when the calls that run have ended."""
    actor, pid = made(Mindful, tally, max_concurrency=3)
    held = actor.hold.remote(gate)
    wait_for(gate.pids)
    leaving = actor.leave.remote()
    assert ray.wait([leaving], timeout=0.3) == ([], [leaving])
    gate.open()
    assert ray.get(held) == "held"
    with pytest.raises(ActorDiedError):
        ray.get(leaving)
    ends(pid)
    assert tally.words() == ["shutdown", "atexit"]


def test_exit_actor_fails_what_is_queued_behind_it(tally):
    """Calls that had not started never do."""
    actor, pid = made(Mindful, tally)
    refs = [actor.leave.remote(), *[actor.note.remote(i) for i in range(3)]]
    for ref in refs:
        with pytest.raises(ActorDiedError):
            ray.get(ref)
    ends(pid)
    assert tally.words() == ["shutdown", "atexit"]


def test_exit_actor_in_a_thread_of_the_actor_ends_it_after_the_call(tally):
    """A thread that a method started may end the actor; the method's result arrives."""

    class Threaded(Mindful):
        def leave_by_thread(self):
            thread = threading.Thread(target=self._leave_quietly)
            thread.start()
            thread.join()
            return "done"

        def _leave_quietly(self):
            try:
                ray.actor.exit_actor()
            except SystemExit:
                self.tally.add("left")

    actor, pid = made(Threaded, tally)
    assert ray.get(actor.leave_by_thread.remote()) == "done"
    with pytest.raises(ActorDiedError):
        ray.get(actor.pid.remote())
    ends(pid)
    assert tally.words() == ["left", "shutdown", "atexit"]


def test_exit_actor_in_a_generator_keeps_the_items_before_it(tally):
    """What was yielded arrived; what follows is the death of the actor."""
    actor, pid = made(Mindful, tally)
    refs = list(actor.count_and_leave.remote())
    assert ray.get(refs[:2]) == [1, 2]
    with pytest.raises(ActorDiedError):
        ray.get(refs[2])
    ends(pid)


def test_exit_actor_in_a_task_of_an_actor_is_an_error_there(tally):
    """A task is not the actor that submitted it."""
    actor, pid = made(Mindful, tally)
    with pytest.raises(TypeError):
        ray.get(actor.leave_from_a_task.remote())
    assert ray.get(actor.pid.remote()) == pid


def test_sys_exit_ends_the_actor(tally):
    """`sys.exit` in a method ends the actor; calls raise ActorDiedError."""
    actor, pid = made(Mindful, tally)
    with pytest.raises(RayActorError):
        ray.get(actor.quit.remote())
    ends(pid)


def test_kill_leaves_no_time_for_the_hook(tally):
    """`ray.kill` runs neither the hook nor the exit handlers."""
    actor, pid = made(Mindful, tally)
    ray.kill(actor)
    ends(pid)
    assert tally.words() == []


def test_kill_with_restart_runs_no_hook_and_starts_afresh(tally):
    """Nor does `no_restart=False`."""
    actor, pid = made(Mindful, tally, max_restarts=1)
    ray.kill(actor, no_restart=False)

    def answers():
        try:
            return ray.get(actor.pid.remote(), timeout=10) != pid
        except RayActorError:
            return False

    wait_for(answers, 15)
    assert tally.words() == []


def test_hook_that_raises_does_not_keep_the_actor(tally):
    """An error in `__ray_shutdown__` is not the end's business: exit handlers run, the process ends."""

    class Careless(Mindful):
        def __ray_shutdown__(self):
            self.tally.add("raises")
            raise ValueError("in the hook")

    actor, pid = made(Careless, tally)
    del actor
    ends(pid)
    assert tally.words() == ["raises", "atexit"]


def test_class_without_a_hook_ends_all_the_same(tally):
    """The hook is optional."""

    @ray.remote
    class Plain:
        def __init__(self):
            atexit.register(tally.add, "atexit")

        def pid(self):
            return os.getpid()

    actor = Plain.remote()
    pid = ray.get(actor.pid.remote())
    del actor
    ends(pid)
    assert tally.words() == ["atexit"]


def test_exit_actor_outside_a_call_of_the_actor_raises(tally):
    """A thread of the driver is no actor."""
    raised = []

    def leave():
        try:
            ray.actor.exit_actor()
        except TypeError as error:
            raised.append(error)

    thread = threading.Thread(target=leave)
    thread.start()
    thread.join()
    assert len(raised) == 1

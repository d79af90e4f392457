"""Faults F25 to F36: actors that fail, die, are killed, leave, or are let go."""

import asyncio
import os
import re
import signal
import time

import pytest

import ray
from ray.exceptions import ActorDiedError, ActorUnavailableError, PendingCallsLimitExceeded
from support import Gate, is_alive, wait_for

pytestmark = [pytest.mark.runtime(num_cpus=4), pytest.mark.limit(10)]


def kill(pid):
    os.kill(pid, signal.SIGKILL)


def death(ref):
    with pytest.raises(ActorDiedError) as caught:
        ray.get(ref)
    return str(caught.value)


@ray.remote
class Steps:
    """Calls are numbered; the one numbered `stop_at` waits at the gate."""

    def __init__(self, gate, tally, stop_at):
        self.gate, self.tally, self.stop_at = gate, tally, stop_at

    def step(self, i):
        if i == self.stop_at:
            self.gate.pass_through()
        self.tally.add(i)
        return i


@ray.remote
class Pid:
    def get(self):
        return os.getpid()


def test_f25_raising_constructor_reaches_every_call():
    """Each pending and later call of an actor whose constructor raised carries the user's exception."""

    @ray.remote
    class Broken:
        def __init__(self):
            raise ValueError("no such model")

        def call(self):
            return 1

    actor = Broken.remote()
    refs = [actor.call.remote() for _ in range(10)]
    texts = [death(ref) for ref in refs] + [death(actor.call.remote())]
    assert all("ValueError: no such model" in text and "__init__" in text for text in texts), texts[0]


def test_f26_killed_constructor_names_the_signal(gate):
    """SIGKILL in the constructor of an actor without restarts is named in its calls' errors."""

    @ray.remote
    class Slow:
        def __init__(self):
            gate.pass_through()

        def call(self):
            return "alive"

    ref = Slow.remote().call.remote()
    (pid,) = wait_for(gate.pids)
    kill(pid)
    text = death(ref)
    assert re.search(r"signal 9|SIGKILL", text), text


def test_f26_killed_constructor_is_repeated_with_restarts(gate):
    """With max_restarts=1 the constructor runs again and the waiting call succeeds."""

    @ray.remote(max_restarts=1)
    class Slow:
        def __init__(self):
            gate.pass_through()

        def call(self):
            return "alive"

    actor = Slow.remote()
    ref = actor.call.remote()
    kill(wait_for(gate.pids)[0])
    wait_for(lambda: len(gate.pids()) == 2)
    gate.open()
    assert ray.get(ref) == "alive"


def test_f27_kill_with_a_queue_keeps_finished_results(gate, tally):
    """Of 100 ordered calls, those finished keep their results, all others raise ActorDiedError with the evidence."""
    actor = Steps.remote(gate, tally, 10)
    refs = [actor.step.remote(i) for i in range(100)]
    (pid,) = wait_for(gate.pids)
    assert ray.get(refs[:10]) == list(range(10))
    kill(pid)
    texts = [death(ref) for ref in refs[10:]]
    assert all(re.search(r"signal 9|SIGKILL", text) and str(pid) in text for text in texts), texts[0]
    assert ray.get(refs[:10]) == list(range(10))
    assert tally.words() == [str(i) for i in range(10)]


def test_f28_kill_with_restart_and_retries_completes_in_order(gate, tally):
    """With max_restarts=1 and max_task_retries=-1 all calls complete, in the caller's order, none twice."""
    actor = Steps.options(max_restarts=1, max_task_retries=-1).remote(gate, tally, 10)
    refs = [actor.step.remote(i) for i in range(100)]
    (pid,) = wait_for(gate.pids)
    assert ray.get(refs[:10]) == list(range(10))
    kill(pid)
    wait_for(lambda: len(gate.pids()) == 2)
    gate.open()
    assert ray.get(refs) == list(range(100))
    assert tally.words() == [str(i) for i in range(100)]


def test_f29_kill_with_restart_fails_calls_in_flight_only(gate, tally):
    """Without task retries the call in flight fails; later calls reach the new instance."""
    actor = Steps.options(max_restarts=1).remote(gate, tally, 0)
    ref = actor.step.remote(0)
    kill(wait_for(gate.pids)[0])
    with pytest.raises((ActorDiedError, ActorUnavailableError)):
        ray.get(ref)

    def answered():
        try:
            return ray.get(actor.step.remote(1)) == 1
        except ActorUnavailableError:
            return False

    wait_for(answered)


def test_f30_kill_with_500_awaits_in_flight_fails_them_all(tally):
    """All calls that an async actor had in flight fail with the cause; none hangs."""

    @ray.remote
    class Sleeper:
        def __init__(self):
            self.never = asyncio.Event()
            self.count = 0

        async def sleep(self):
            self.count += 1
            if self.count == 500:
                tally.add(os.getpid())
            await self.never.wait()

    actor = Sleeper.options(max_concurrency=1000).remote()
    refs = [actor.sleep.remote() for _ in range(500)]
    wait_for(lambda: tally.count() == 1)
    kill(int(tally.words()[0]))
    ready, rest = ray.wait(refs, num_returns=500, timeout=5)
    assert rest == []
    assert all(re.search(r"signal 9|SIGKILL", death(ref)) for ref in ready)


def test_f32_exhausted_restarts_tell_every_death():
    """After the last restart is used up, the error tells all deaths."""
    actor, pids = Pid.options(max_restarts=2).remote(), []

    def next_pid():
        try:
            pid = ray.get(actor.get.remote())
        except ActorUnavailableError:
            return None
        return pid if pid not in pids else None

    for _ in range(3):
        pids.append(wait_for(next_pid))
        kill(pids[-1])
        wait_for(lambda: not is_alive(pids[-1]))
    text = wait_for(lambda: _died(actor))
    assert all(str(pid) in text for pid in pids), text


def _died(actor):
    try:
        ray.get(actor.get.remote())
    except ActorUnavailableError:
        return None
    except ActorDiedError as error:
        return str(error)
    return None


def test_f33_pending_calls_limit_raises_at_once(gate, tally):
    """The call over the limit raises immediately, without waiting for the others."""
    actor = Steps.options(max_pending_calls=5).remote(gate, tally, 0)
    refs = [actor.step.remote(i) for i in range(5)]
    start = time.monotonic()
    with pytest.raises(PendingCallsLimitExceeded, match="5"):
        actor.step.remote(5)
    assert time.monotonic() - start < 0.5
    gate.open()
    assert ray.get(refs) == list(range(5))


def test_f34_last_handle_dropped_finishes_the_queue_then_ends(gate, tally):
    """Queued calls finish after the last handle is gone; then the process ends."""
    actor = Steps.remote(gate, tally, 0)
    refs = [actor.step.remote(i) for i in range(30)]
    (pid,) = wait_for(gate.pids)
    del actor
    gate.open()
    assert ray.get(refs) == list(range(30))
    wait_for(lambda: not is_alive(pid), 5)


def test_f35_ray_kill_is_named_as_the_cause(gate, tally):
    """A call interrupted by `ray.kill` says so."""
    actor = Steps.remote(gate, tally, 0)
    ref = actor.step.remote(0)
    wait_for(gate.pids)
    ray.kill(actor)
    assert "ray.kill" in death(ref)
    assert "ray.kill" in death(actor.step.remote(1))


def test_f36_exit_actor_is_named_as_the_cause(tmp_path):
    """After `exit_actor` the current call ends and later ones say that the actor left by itself."""
    gate = Gate(tmp_path / "gate")

    @ray.remote(max_restarts=2)
    class Leaver:
        def first(self):
            return "kept"

        def leave(self):
            gate.pass_through()
            ray.actor.exit_actor()

        def after(self):
            return "never"

    actor = Leaver.remote()
    refs = [actor.first.remote(), actor.leave.remote(), actor.after.remote()]
    (pid,) = wait_for(gate.pids)
    gate.open()
    assert ray.get(refs[0]) == "kept"
    with pytest.raises(ActorDiedError):
        ray.get(refs[1])
    for text in (death(refs[2]), death(actor.after.remote())):
        assert re.search(r"exit_actor|exited (by )?itself|left", text), text
    wait_for(lambda: not is_alive(pid))

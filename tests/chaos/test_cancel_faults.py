"""Cancelling while processes die: the worker, the owner, the actor. Each call ends once, and nothing is left behind."""

import asyncio
import os
import random
import signal
import time

import pytest

import ray
from ray._core import session
from ray.exceptions import ActorDiedError, OwnerDiedError, RayError, TaskCancelledError, WorkerCrashedError
from support import is_alive, wait_for

pytestmark = [pytest.mark.runtime(num_cpus=4), pytest.mark.limit(40)]


def kill(pid):
    os.kill(pid, signal.SIGKILL)


def no_calls_left():
    """This process knows no call, and its idle leases go back."""
    wait_for(lambda: session.core.table_sizes()[1] == 0, 15, "no call known")
    wait_for(lambda: ray.available_resources().get("CPU") == 4, 15, "every CPU free")


@ray.remote
def sleeper(tally):
    tally.add(os.getpid())
    while True:
        time.sleep(0.01)


@ray.remote(max_retries=5)
def deaf(tally):
    """Takes no notice of an interruption."""
    tally.add(os.getpid())
    while True:
        try:
            time.sleep(0.01)
        except KeyboardInterrupt:
            tally.add("told")


@ray.remote
def quick(i):
    return i


def test_cancel_then_kill_ends_in_the_cancellation(tally):
    """The worker of a cancelled task is killed before the task ends: no retry."""
    ref = deaf.remote(tally)
    wait_for(tally.words)
    ray.cancel(ref)
    wait_for(lambda: "told" in tally.words())
    kill(int(tally.words()[0]))
    with pytest.raises(TaskCancelledError):
        ray.get(ref, timeout=15)
    assert len(tally.words()) == 2
    no_calls_left()


def test_kill_then_cancel_stops_the_retry(tally):
    """A task whose worker was killed is cancelled while it waits for, or runs, its next attempt."""
    ref = sleeper.options(max_retries=-1).remote(tally)
    for attempt in range(1, 6):
        wait_for(lambda n=attempt: tally.count() >= n)
        kill(int(tally.words()[-1]))
        if attempt == 5:
            ray.cancel(ref)
    with pytest.raises(TaskCancelledError):
        ray.get(ref, timeout=15)
    no_calls_left()
    before = tally.count()
    assert ray.get([quick.remote(i) for i in range(20)], timeout=15) == list(range(20))
    assert tally.count() == before


@pytest.mark.parametrize("seed", range(4))
def test_cancels_and_kills_at_random_end_each_call_once(seed, tally):
    """Many tasks, some cancelled, some by force, some killed: every one ends, and all workers and CPUs are free afterwards."""
    rng = random.Random(seed)

    @ray.remote(max_retries=-1)
    def work(i):
        tally.add(os.getpid())
        until = time.monotonic() + rng.random() * 0.05
        while time.monotonic() < until:
            pass
        return i

    refs = [work.remote(i) for i in range(80)]
    doomed = rng.sample(range(80), 40)
    for at in doomed:
        ray.cancel(refs[at], force=rng.random() < 0.3)
        if rng.random() < 0.2 and tally.words():
            victim = int(tally.words()[-1])
            if is_alive(victim):
                kill(victim)
    for at, ref in enumerate(refs):
        try:
            assert ray.get(ref, timeout=30) == at
        except TaskCancelledError:
            assert at in doomed, f"seed {seed}: task {at} was never cancelled"
    del refs, ref
    no_calls_left()


def test_cancel_whose_owner_dies_ends_the_borrower_s_wait(tally):
    """A borrower cancels what belongs to a process that is killed: no error, no hang."""

    @ray.remote
    class Owner:
        def make(self):
            self.ref = sleeper.options(num_cpus=0).remote(tally)
            return [self.ref]

        def pid(self):
            return os.getpid()

    owner = Owner.options(num_cpus=0).remote()
    (ref,) = ray.get(owner.make.remote())
    pid = ray.get(owner.pid.remote())
    wait_for(tally.words)
    kill(pid)
    ray.cancel(ref)
    with pytest.raises((OwnerDiedError, TaskCancelledError)):
        ray.get(ref, timeout=15)
    ray.cancel(ref)


def test_cancel_of_a_stopped_owner_is_answered_when_it_goes_on(tally):
    """A stopped owner is not dead: the borrower's cancellation waits for it."""

    @ray.remote(num_cpus=0)
    class Owner:
        def make(self):
            return [sleeper.options(num_cpus=0).remote(tally)]

        def pid(self):
            return os.getpid()

    owner = Owner.remote()
    (ref,) = ray.get(owner.make.remote())
    pid = ray.get(owner.pid.remote())
    wait_for(tally.words)
    os.kill(pid, signal.SIGSTOP)
    import threading

    thread = threading.Thread(target=ray.cancel, args=(ref,))
    thread.start()
    thread.join(0.3)
    assert thread.is_alive()
    os.kill(pid, signal.SIGCONT)
    thread.join(15)
    assert not thread.is_alive()
    with pytest.raises(TaskCancelledError):
        ray.get(ref, timeout=15)


def test_cancel_method_of_an_actor_that_is_killed(tally):
    """A cancelled call of an actor that dies is cancelled, or has the actor's death; it does not run in the next life."""

    @ray.remote(max_restarts=3, max_task_retries=5, num_cpus=0)
    class Actor:
        def block(self):
            tally.add(os.getpid())
            while True:
                time.sleep(0.01)

        def ok(self):
            return "ok"

    actor = Actor.remote()
    ref = actor.block.remote()
    wait_for(tally.words)
    ray.cancel(ref)
    kill(int(tally.words()[0]))
    with pytest.raises((TaskCancelledError, ActorDiedError)):
        ray.get(ref, timeout=15)
    assert ray.get(actor.ok.remote(), timeout=15) == "ok"
    assert tally.count() == 1


def test_cancel_coroutines_while_the_actor_dies(tally):
    """Cancellations cross the death of an async actor: each call ends once."""

    @ray.remote(num_cpus=0)
    class Actor:
        async def sleep(self, i):
            tally.add(os.getpid())
            await asyncio.sleep(3600)

    actor = Actor.remote()
    refs = [actor.sleep.remote(i) for i in range(20)]
    wait_for(lambda: tally.count() == 20)
    for ref in refs[:10]:
        ray.cancel(ref)
    kill(int(tally.words()[0]))
    for ref in refs:
        with pytest.raises((TaskCancelledError, ActorDiedError)):
            ray.get(ref, timeout=15)


def test_cancel_by_force_of_code_that_never_returns(tally):
    """A loop outside of the interpreter, which looks for no signals, ends by force only."""

    @ray.remote
    def stuck():
        tally.add(os.getpid())
        return sum(range(10**14))

    ref = stuck.remote()
    wait_for(tally.words)
    ray.cancel(ref)
    assert ray.wait([ref], timeout=0.3) == ([], [ref])
    ray.cancel(ref, force=True)
    with pytest.raises((TaskCancelledError, WorkerCrashedError)):
        ray.get(ref, timeout=15)
    no_calls_left()


def test_cancel_by_force_takes_the_task_s_own_processes_along(tally):
    """What the task has started ends with its worker."""

    @ray.remote
    def with_child():
        import subprocess
        import sys

        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"])
        tally.add(child.pid)
        child.wait()

    ref = with_child.remote()
    wait_for(tally.words)
    ray.cancel(ref, force=True)
    with pytest.raises(RayError):
        ray.get(ref, timeout=15)
    wait_for(lambda: not is_alive(int(tally.words()[0])), 15)

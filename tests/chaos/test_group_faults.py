"""Fault F31: an actor with concurrency groups is killed while calls run and wait in several of them."""

import asyncio
import os
import re
import signal
import threading
import time

import pytest

import ray
from ray.exceptions import ActorDiedError, ActorUnavailableError
from support import Tally, is_alive, wait_for

pytestmark = [pytest.mark.runtime(num_cpus=4), pytest.mark.limit(10)]

CALLS = 60
STOP_AT = 10
GROUPS = ("", "a", "b")


def kill(pid):
    os.kill(pid, signal.SIGKILL)


def death(ref):
    with pytest.raises(ActorDiedError) as caught:
        ray.get(ref)
    return str(caught.value)


@ray.remote(concurrency_groups={"a": 1, "b": 1})
class Steps:
    """Calls of each group are numbered; the one numbered STOP_AT waits at the gate, in every group."""

    def __init__(self, gate, tally):
        self.gate, self.tally = gate, tally

    def step(self, group, i):
        if i == STOP_AT:
            self.gate.pass_through()
        self.tally.add(f"{group}:{i}")
        return i


@ray.remote(concurrency_groups={"a": 1, "b": 1})
class AsyncSteps:
    """The same in event loops."""

    def __init__(self, gate, tally):
        self.gate, self.tally = gate, tally

    async def step(self, group, i):
        if i == STOP_AT:
            await asyncio.get_running_loop().run_in_executor(None, self.gate.pass_through)
        self.tally.add(f"{group}:{i}")
        return i


def start(cls, gate, tally, **options):
    """Make CALLS calls to each group, mixed; give their references by group, and the pid once all groups stand at the gate."""
    actor = cls.options(**options).remote(gate, tally)
    step = {group: actor.step.options(concurrency_group=group) for group in GROUPS}
    refs = {group: [] for group in GROUPS}
    for i in range(CALLS):
        for group in GROUPS:
            refs[group].append(step[group].remote(group, i))
    pids = wait_for(lambda: gate.pids() if len(gate.pids()) == len(GROUPS) else None)
    assert len(set(pids)) == 1
    for group in GROUPS:
        assert ray.get(refs[group][:STOP_AT]) == list(range(STOP_AT))
    return actor, refs, pids[0]


def of_group(tally, group):
    return [int(word.partition(":")[2]) for word in tally.words() if word.partition(":")[0] == group]


@pytest.mark.parametrize("cls", [Steps, AsyncSteps])
def test_f31_kill_without_restarts_fails_every_group_with_the_cause(gate, tally, cls):
    """Calls that run and calls that wait fail in all groups, naming the signal; finished results stay."""
    actor, refs, pid = start(cls, gate, tally, max_concurrency=1)
    kill(pid)
    for group in GROUPS:
        texts = [death(ref) for ref in refs[group][STOP_AT:]]
        assert all(re.search(r"signal 9|SIGKILL", text) and str(pid) in text for text in texts), texts[0]
        assert ray.get(refs[group][:STOP_AT]) == list(range(STOP_AT))
        assert of_group(tally, group) == list(range(STOP_AT))
        death(actor.step.options(concurrency_group=group).remote(group, 0))
    wait_for(lambda: not is_alive(pid))


@pytest.mark.parametrize("cls", [Steps, AsyncSteps])
def test_f31_kill_with_restart_and_retries_completes_every_group_in_order(gate, tally, cls):
    """With max_restarts=1 and max_task_retries=-1 all calls of all groups complete, each group in its order, none twice."""
    _actor, refs, pid = start(cls, gate, tally, max_concurrency=1, max_restarts=1, max_task_retries=-1)
    kill(pid)
    wait_for(lambda: len(gate.pids()) == 2 * len(GROUPS))
    gate.open()
    for group in GROUPS:
        assert ray.get(refs[group]) == list(range(CALLS))
        assert of_group(tally, group) == list(range(CALLS))


def test_f31_kill_with_restart_fails_calls_in_flight_only(gate, tally):
    """Without task retries the calls in flight of all groups fail; later calls reach every group of the new instance."""
    actor, refs, pid = start(Steps, gate, tally, max_restarts=1)
    kill(pid)
    for group in GROUPS:
        for ref in refs[group][STOP_AT:]:
            with pytest.raises((ActorDiedError, ActorUnavailableError)):
                ray.get(ref)

    def answered(group):
        try:
            return ray.get(actor.step.options(concurrency_group=group).remote(group, CALLS)) == CALLS
        except ActorUnavailableError:
            return False

    for group in GROUPS:
        wait_for(lambda group=group: answered(group))


def test_f31_kill_with_500_awaits_in_two_groups_fails_them_all(tally):
    """All coroutines that two groups had running fail with the cause; none hangs."""

    @ray.remote(concurrency_groups={"wide": 250})
    class Sleeper:
        def __init__(self):
            self.lock, self.count = threading.Lock(), 0

        async def sleep(self):
            with self.lock:
                self.count += 1
                if self.count == 500:
                    tally.add(os.getpid())
            await asyncio.Event().wait()

    actor = Sleeper.remote()
    wide = actor.sleep.options(concurrency_group="wide")
    refs = [method.remote() for _ in range(250) for method in (actor.sleep, wide)] + [wide.remote() for _ in range(50)]
    wait_for(lambda: tally.count() == 1)
    kill(int(tally.words()[0]))
    ready, rest = ray.wait(refs, num_returns=len(refs), timeout=5)
    assert rest == []
    assert all(re.search(r"signal 9|SIGKILL", death(ref)) for ref in ready)


def test_f31_repeated_kills_keep_the_order_of_each_group(tmp_path):
    """An actor that is killed again and again still ends with every call of every group done, in order from the caller's view."""

    @ray.remote(concurrency_groups={"a": 1, "b": 1}, max_restarts=-1, max_task_retries=-1)
    class Log:
        def step(self, tally, i):
            tally.add(i)
            return os.getpid()

    tallies = {group: Tally(tmp_path / f"log-{group}") for group in GROUPS}
    actor = Log.remote()
    refs = {group: [] for group in GROUPS}
    killed = set()
    for i in range(CALLS):
        for group in GROUPS:
            refs[group].append(actor.step.options(concurrency_group=group).remote(tallies[group], i))
        if i % 20 == 19:
            pid = ray.get(refs["a"][-1])
            kill(pid)
            killed.add(pid)
    deadline = time.monotonic() + 30
    for group in GROUPS:
        ray.get(refs[group], timeout=max(1, deadline - time.monotonic()))
        words = [int(word) for word in tallies[group].words()]
        # A call whose reply was lost runs again: the first runs are in order, and so is what follows each repetition.
        firsts = list(dict.fromkeys(words))
        assert firsts == list(range(CALLS)), words
    assert len(killed) == 3

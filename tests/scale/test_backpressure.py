"""Submission without end: a warning, then a wait, or an error where waiting would never end (docs/design/005)."""

import logging
import threading
import time

import pytest

import ray
from ray._core import session
from ray.exceptions import ObjectStoreFullError, PendingCallsLimitExceeded
from support import Gate, init, run_script, wait_for

pytestmark = pytest.mark.limit(60)

BUDGET = 4 << 20
BODY = b"x" * 50_000
FIT = BUDGET // len(BODY)  # so many calls with that argument, and a few less


@ray.remote
def length(data, *rest):
    return len(data)


@ray.remote
def pass_gate(gate, data=b""):
    gate.pass_through()
    return len(data)


@ray.remote(num_cpus=0)
class Waiter:
    """Its calls end when somebody opens it."""

    def __init__(self):
        import asyncio

        self.opened = asyncio.Event()

    async def wait(self, data):
        await self.opened.wait()

    async def open(self):
        self.opened.set()

    async def submit(self, other, count):
        return [other.wait.remote(BODY) for _ in range(count)]


def start(**settings):
    init(num_cpus=2, _system_config={"pending_calls_bytes": BUDGET, **settings})


def pending():
    return session.core.table_sizes()[1]


def submitting(refs, stop, call):
    """A thread that submits without end."""

    def run():
        while not stop.is_set():
            refs.append(call())

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread


def test_submission_without_end_waits_at_the_budget_and_goes_on_as_calls_end(no_runtime, gate: Gate, caplog):
    """Nothing is submitted beyond the budget; one warning names the function, the count and what to do; every accepted call runs."""
    start()
    logging.getLogger("ray").addHandler(caplog.handler)
    held = [pass_gate.remote(gate) for _ in range(2)]
    wait_for(lambda: len(gate.pids()) == 2)
    refs, stop = [], threading.Event()
    thread = submitting(refs, stop, lambda: length.remote(BODY))
    wait_for(lambda: "waits until some of them have ended" in caplog.text)
    before = len(refs)
    assert FIT - 5 <= before <= FIT + 1
    assert ray.get(ray.put(1)) == 1  # other threads go on
    assert len(refs) == before
    assert f"{before} of length" in caplog.text or f"{before + 1} of length" in caplog.text
    assert "hint: " in caplog.text
    gate.open()
    wait_for(lambda: len(refs) > 5 * FIT, 30)
    stop.set()
    thread.join()
    logging.getLogger("ray").removeHandler(caplog.handler)
    assert ray.get(refs) == [len(BODY)] * len(refs)
    assert ray.get(held) == [0, 0]
    assert caplog.text.count("hint: ") == 1


def test_submission_without_references_kept_is_held_back_too(no_runtime):
    """`while True: f.remote(data)`: nobody asks for the results."""
    start()
    for _ in range(20 * FIT):
        length.remote(BODY)
        assert pending() <= FIT + 1
    wait_for(lambda: pending() == 0, 30)


def test_submission_that_waits_ends_with_ctrl_c(no_runtime):
    """KeyboardInterrupt comes out of `.remote()`, and the session goes on."""
    done = run_script(
        f"""
        import os, signal, threading, ray
        ray.init(num_cpus=1, include_dashboard=False, _system_config={{"pending_calls_bytes": {BUDGET}}})

        @ray.remote
        def sleep(data):
            threading.Event().wait(3600)

        @ray.remote
        def one():
            return 1

        count = 0
        threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGINT)).start()
        try:
            while True:
                sleep.remote(b"x" * 50_000)
                count += 1
        except KeyboardInterrupt:
            print("interrupted after", count)
        print("done", ray.get(ray.put(2)))
        """
    )
    assert "interrupted after" in done.stdout
    assert "done 2" in done.stdout


def test_calls_that_wait_for_the_submitter_are_refused_with_an_error(no_runtime):
    """They would end only with a call that the waiting thread has yet to make: it is told, and can make it."""
    start(pending_calls_patience_s=1)
    waiter = Waiter.options(max_concurrency=10_000).remote()
    refs = []
    with pytest.raises(PendingCallsLimitExceeded, match="may wait for this very thread") as caught:
        while True:
            refs.append(waiter.wait.remote(BODY))
    assert "of Waiter.wait" in str(caught.value) and "hint: " in str(caught.value)
    assert 1 <= len(refs) <= FIT
    del refs[: len(refs) // 2]  # the references are not what keeps them: they wait for the actor
    with pytest.raises(PendingCallsLimitExceeded):
        waiter.open.remote()
    ray.kill(waiter)
    wait_for(lambda: pending() == 0)
    assert ray.get(length.remote(BODY)) == len(BODY)


def test_event_loop_of_an_actor_is_never_blocked(no_runtime):
    """A coroutine that submits too much gets the error at once: others of the same loop may be what makes room."""
    start()
    waiter, submitter = (Waiter.options(max_concurrency=10_000).remote() for _ in range(2))
    started = time.monotonic()
    with pytest.raises(PendingCallsLimitExceeded, match="event loop"):
        ray.get(submitter.submit.remote(waiter, 10 * FIT))
    assert time.monotonic() - started < 20
    assert ray.get(submitter.submit.remote(waiter, 0)) == []


def test_task_that_submits_without_end_gives_its_cpu_back_while_it_waits(no_runtime):
    """On a node with one CPU its calls can run only then."""
    init(num_cpus=1, _system_config={"pending_calls_bytes": BUDGET})

    @ray.remote
    def submit(count):
        refs = [length.remote(BODY) for _ in range(count)]
        return sum(ray.get(refs))

    assert ray.get(submit.remote(5 * FIT)) == 5 * FIT * len(BODY)


def test_large_arguments_wait_for_room_in_the_store(no_runtime):
    """Ten times what the store holds goes through a loop that never waits by itself."""
    init(num_cpus=2, object_store_memory=100 << 20)
    refs = [length.remote(bytes([i]) * (10 << 20)) for i in range(100)]
    assert ray.get(refs) == [10 << 20] * 100
    refs = [length.remote(ray.put(bytes([i]) * (10 << 20))) for i in range(50)]
    assert ray.get(refs) == [10 << 20] * 50


def test_full_store_is_an_error_when_the_calls_do_not_end(no_runtime, gate: Gate):
    """The wait for room in the store has an end: what runs may wait for what does not fit."""
    init(num_cpus=2, object_store_memory=100 << 20, _system_config={"automatic_object_spilling_enabled": False, "pending_calls_patience_s": 1})
    refs = []
    with pytest.raises(ObjectStoreFullError, match="the driver holds"):
        for i in range(20):
            refs.append(pass_gate.remote(gate, bytes([i]) * (10 << 20)))
    assert 5 <= len(refs) <= 10
    gate.open()
    assert ray.get(refs) == [10 << 20] * len(refs)


def test_refused_submission_has_submitted_nothing(no_runtime):
    """The call that was refused left neither a call nor an object behind."""
    start(pending_calls_patience_s=1)
    waiter = Waiter.options(max_concurrency=10_000).remote()
    refs = [waiter.wait.remote(BODY)]
    wait_for(lambda: pending() == 1)  # the constructor has ended
    with pytest.raises(PendingCallsLimitExceeded):
        while True:
            refs.append(waiter.wait.remote(BODY))
    objects, calls, _, _ = session.core.table_sizes()
    assert (objects, calls) == (len(refs) + 1, len(refs))
    ray.kill(waiter)

"""Event loops of the user's program: several at once, loops of other makers, awaits that are cancelled, and blocking calls inside an async actor."""

import asyncio
import gc
import os
import threading

import pytest

import ray
from support import run_script, wait_for

pytestmark = [pytest.mark.runtime(num_cpus=4), pytest.mark.limit(40)]


@ray.remote
def double(x):
    return 2 * x


@ray.remote
def fail():
    raise LookupError("deep")


@ray.remote
def pass_through(gate):
    gate.pass_through()
    return "through"


async def mixed(base):
    """What a program awaits: one, many, errors, a timeout, tasks, plain values of the store."""
    assert await double.remote(base) == 2 * base
    assert await asyncio.gather(*[double.remote(base + i) for i in range(30)]) == [2 * (base + i) for i in range(30)]
    with pytest.raises(LookupError):
        await fail.remote()
    refs = [double.remote(base + i) for i in range(5)]
    done, pending = await asyncio.wait([asyncio.ensure_future(ref.as_future()) for ref in refs])
    assert (sorted(one.result() for one in done), len(pending)) == ([2 * (base + i) for i in range(5)], 0)
    return await ray.put(base)


def test_loops_in_several_threads_at_once_get_their_own_results():
    """Eight loops in eight threads await at the same time."""
    results = {}

    def run(index):
        results[index] = asyncio.run(mixed(1000 * index))

    threads = [threading.Thread(target=run, args=(index,)) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {index: 1000 * index for index in range(8)}


def test_loops_one_after_another_leave_nothing():
    """A hundred loops, each closed with an await in the air, leave no descriptor and no wait of the engine."""
    from ray._core import session

    @ray.remote
    class Sleeper:
        def __init__(self):
            self.event = threading.Event()

        def never(self):
            self.event.wait()

    never = Sleeper.remote().never.remote()

    async def leave_early():
        await double.remote(1)
        never.as_future()
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(never, 0.001)

    asyncio.run(leave_early())
    gc.collect()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(100):
        asyncio.run(leave_early())

    def is_back():
        gc.collect()
        return len(os.listdir("/proc/self/fd")) <= before + 2 and session.core.table_sizes()[3] == 0

    wait_for(is_back, 10, f"{before} descriptors and no wait")


def test_uvloop_awaits():
    """Loops of uvloop await as asyncio's own do, one after another and in threads, and cancel."""
    pytest.importorskip("uvloop")
    done = run_script(
        """
import asyncio, threading, ray, uvloop
ray.init(num_cpus=2, include_dashboard=False)

@ray.remote
def double(x):
    return 2 * x

@ray.remote
class Actor:
    def never(self):
        threading.Event().wait()

never = Actor.remote().never.remote()

async def main(base, results):
    assert type(asyncio.get_running_loop()).__module__.startswith("uvloop")
    results += await asyncio.gather(*[double.remote(base + i) for i in range(20)])
    try:
        await asyncio.wait_for(never, 0.01)
    except asyncio.TimeoutError:
        results.append("timeout")

def run(base, results):
    loop = uvloop.new_event_loop()
    loop.run_until_complete(main(base, results))
    loop.close()

for base in (10, 20):
    results = []
    run(base, results)
    assert results == [2 * (base + i) for i in range(20)] + ["timeout"], results
found = [[] for _ in range(4)]
threads = [threading.Thread(target=run, args=(100 * i, found[i])) for i in range(4)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
assert found == [[2 * (100 * base + i) for i in range(20)] + ["timeout"] for base in range(4)], found
print("all right")
"""
    )
    assert (done.rc, done.stdout.strip()) == (0, "all right"), done


def test_loop_in_a_thread_of_its_own_takes_work_from_others():
    """The usual bridge, `run_coroutine_threadsafe`, works from many threads."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        futures = [asyncio.run_coroutine_threadsafe(mixed(index), loop) for index in range(6)]
        assert [future.result(20) for future in futures] == list(range(6))
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def test_cancelled_await_loses_no_value(gate):
    """Awaits of one object that are cancelled, alone or in a group, leave it to other awaits and to get; and they leave no wait behind."""
    from ray._core import session

    ref = pass_through.remote(gate)

    async def main():
        for _ in range(50):
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(ref, 0.001)
        group = asyncio.gather(*[_wait(ref) for _ in range(20)])
        await asyncio.sleep(0)
        group.cancel()
        with pytest.raises(asyncio.CancelledError):
            await group
        assert session.core.table_sizes()[3] == 0
        patient = asyncio.create_task(_wait(ref))
        await asyncio.sleep(0)
        gate.open()
        return await patient

    assert asyncio.run(main()) == "through"
    assert ray.get(ref) == "through"


async def _wait(ref):
    return await ref


def test_cancel_that_crosses_the_result_loses_no_value():
    """Cancelling right when results arrive never loses one: each is there for the next await."""

    async def main():
        for round_ in range(30):
            refs = [double.remote(i) for i in range(10)]
            tasks = [asyncio.create_task(_wait(ref)) for ref in refs]
            for _ in range(round_):
                await asyncio.sleep(0)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            assert await asyncio.wait_for(asyncio.gather(*refs), 20) == [2 * i for i in range(10)]

    asyncio.run(main())


def test_cancelled_await_in_an_async_actor_leaves_the_actor_working(gate):
    """A coroutine of an actor that gives up an await goes on; the value arrives in a later call."""

    @ray.remote
    class Waiter:
        async def try_once(self, box):
            self.ref = box[0]
            try:
                await asyncio.wait_for(self.ref, 0.01)
            except asyncio.TimeoutError:
                return "gave up"

        async def wait(self):
            return await self.ref

    waiter = Waiter.remote()
    ref = pass_through.remote(gate)
    assert ray.get(waiter.try_once.remote([ref])) == "gave up"
    later = waiter.wait.remote()
    gate.open()
    assert ray.get(later) == "through"


BLOCKING = """
import asyncio, ray
ray.init(num_cpus=2, include_dashboard=False)

@ray.remote
def double(x):
    return 2 * x

@ray.remote
class Actor:
    async def get(self):
        return ray.get([double.remote(i) for i in range(3)])

    async def wait(self):
        return len(ray.wait([double.remote(1)], timeout=20)[0])

    async def put(self):
        return ray.get(ray.put("stored"))

    async def own(self):
        return ray.get(ray.get_runtime_context().current_actor.put.remote(), timeout=0.5)

    async def in_thread(self):
        return await asyncio.to_thread(lambda: ray.get(double.remote(5)))

actor = Actor.remote()
"""


def test_get_inside_an_async_actor_works_and_says_what_it_costs():
    """get and wait in a coroutine return their values; a warning says once that the loop is blocked, and what to write instead."""
    done = run_script(BLOCKING + "print(ray.get([actor.get.remote(), actor.wait.remote(), actor.put.remote(), actor.in_thread.remote()]))\n")
    assert (done.rc, done.stdout.strip()) == (0, "[[0, 2, 4], 1, 'stored', 10]"), done
    assert done.output.count("blocks the event loop") == 1, done
    assert "hint: use `await ref`" in done.output, done


def test_get_of_a_call_to_itself_inside_an_async_actor_is_warned_of():
    """A coroutine that blocks on a call of its own actor can't succeed: the warning names that, and a timeout ends it."""
    done = run_script(
        BLOCKING
        + """
try:
    ray.get(actor.own.remote())
except ray.exceptions.GetTimeoutError:
    print("timed out", ray.get(actor.put.remote()))
"""
    )
    assert (done.rc, "timed out stored" in done.stdout) == (0, True), done
    assert "waiting for one of its own calls never ends" in done.output, done


def test_get_in_a_thread_or_without_blocking_inside_an_async_actor_warns_of_nothing():
    """What does not block the loop is not warned of."""
    done = run_script(BLOCKING + "print(ray.get([actor.put.remote(), actor.in_thread.remote()]))\n")
    assert (done.rc, done.stdout.strip()) == (0, "['stored', 10]"), done
    assert "blocks" not in done.output

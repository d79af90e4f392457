"""Threaded and async actors, and limits on calls in flight."""

import asyncio
import threading

import pytest

import ray
from ray.exceptions import PendingCallsLimitExceeded
from support import wait_for

pytestmark = pytest.mark.runtime(num_cpus=4)


def test_actor_default_runs_one_call_at_a_time(gate):
    """Without max_concurrency, a call waits for the one before it."""

    @ray.remote
    class Actor:
        def hold(self):
            gate.pass_through()

        def ping(self):
            return "pong"

    actor = Actor.remote()
    hold, ping = actor.hold.remote(), actor.ping.remote()
    wait_for(lambda: gate.pids(), 30)
    assert ray.wait([ping], timeout=0.2)[0] == []
    gate.open()
    assert ray.get([hold, ping]) == [None, "pong"]


def test_threaded_actor_runs_calls_side_by_side():
    """With max_concurrency=2, two calls can meet."""

    @ray.remote(max_concurrency=2)
    class Meeting:
        def __init__(self):
            self.barrier = threading.Barrier(2)

        def meet(self):
            self.barrier.wait(20)
            return threading.get_ident()

    actor = Meeting.remote()
    assert len(set(ray.get([actor.meet.remote(), actor.meet.remote()]))) == 2


def test_threaded_actor_never_exceeds_its_limit():
    """No more than max_concurrency calls run at once."""

    @ray.remote(max_concurrency=3)
    class Watcher:
        def __init__(self):
            self.lock, self.running, self.most = threading.Lock(), 0, 0
            self.full = threading.Event()

        def call(self):
            with self.lock:
                self.running += 1
                self.most = max(self.most, self.running)
                if self.running == 3:
                    self.full.set()
            self.full.wait(20)
            with self.lock:
                self.running -= 1
            return self.most

    actor = Watcher.remote()
    assert max(ray.get([actor.call.remote() for _ in range(30)])) == 3


def test_threaded_actor_calls_the_runtime_from_its_threads():
    """Calls that run side by side may start tasks and wait for them."""

    @ray.remote
    def double(x):
        return 2 * x

    @ray.remote(max_concurrency=4)
    class Actor:
        def call(self, x):
            return ray.get(double.remote(x))

    actor = Actor.remote()
    assert ray.get([actor.call.remote(i) for i in range(20)]) == [2 * i for i in range(20)]


def test_async_actor_interleaves_its_calls():
    """A call that awaits lets later calls run."""

    @ray.remote
    class Actor:
        def __init__(self):
            self.event = asyncio.Event()

        async def wait(self):
            await self.event.wait()
            return "released"

        async def release(self):
            self.event.set()

    actor = Actor.remote()
    waiting = [actor.wait.remote() for _ in range(50)]
    ray.get(actor.release.remote())
    assert ray.get(waiting) == ["released"] * 50


def test_async_actor_awaits_refs():
    """Inside an async actor a ref can be awaited, alone or gathered."""

    @ray.remote
    def double(x):
        return 2 * x

    @ray.remote
    class Actor:
        async def one(self):
            return await double.remote(4)

        async def many(self):
            return await asyncio.gather(*[double.remote(i) for i in range(5)])

    actor = Actor.remote()
    assert ray.get([actor.one.remote(), actor.many.remote()]) == [8, [0, 2, 4, 6, 8]]


def test_async_actor_error_reaches_the_caller():
    """An exception in a coroutine, also one from an awaited ref, fails the call with the user's type."""

    @ray.remote
    def fail():
        raise LookupError("deep")

    @ray.remote
    class Actor:
        async def own(self):
            raise KeyError("own")

        async def awaited(self):
            await fail.remote()

        async def caught(self):
            try:
                await fail.remote()
            except LookupError:
                return "caught"

    actor = Actor.remote()
    with pytest.raises(KeyError, match="own"):
        ray.get(actor.own.remote())
    with pytest.raises(LookupError, match="deep"):
        ray.get(actor.awaited.remote())
    assert ray.get(actor.caught.remote()) == "caught"


def test_async_actor_limit_holds():
    """max_concurrency limits coroutines in flight too."""

    @ray.remote(max_concurrency=2)
    class Actor:
        def __init__(self):
            self.running = self.most = 0
            self.both = asyncio.Event()

        async def call(self):
            self.running += 1
            self.most = max(self.most, self.running)
            if self.running == 2:
                self.both.set()
            await self.both.wait()
            await asyncio.sleep(0)
            self.running -= 1
            return self.most

    actor = Actor.remote()
    assert max(ray.get([actor.call.remote() for _ in range(10)])) == 2


def test_async_actor_mixes_in_plain_methods():
    """A class with one coroutine method is async; its plain methods still work."""

    @ray.remote
    class Actor:
        def plain(self):
            return "plain"

        async def coroutine(self):
            return "coroutine"

    actor = Actor.remote()
    assert ray.get([actor.plain.remote(), actor.coroutine.remote()]) == ["plain", "coroutine"]


def test_async_actor_calls_itself():
    """A coroutine can await a call of its own actor without a deadlock."""

    @ray.remote
    class Actor:
        async def outer(self):
            return await ray.get_runtime_context().current_actor.inner.remote()

        async def inner(self):
            return "inner"

    assert ray.get(Actor.remote().outer.remote()) == "inner"


def test_pending_calls_limit_raises_at_the_call(gate):
    """With max_pending_calls=3, the caller's fourth unfinished call raises, and calls work again later."""

    @ray.remote(max_pending_calls=3)
    class Actor:
        def hold(self):
            gate.pass_through()
            return 1

    actor = Actor.remote()
    refs = [actor.hold.remote()]
    wait_for(lambda: gate.pids(), 30)
    with pytest.raises(PendingCallsLimitExceeded):
        for _ in range(10):
            refs.append(actor.hold.remote())
    assert len(refs) <= 4
    gate.open()
    assert ray.get(refs) == [1] * len(refs)
    assert ray.get(actor.hold.remote()) == 1

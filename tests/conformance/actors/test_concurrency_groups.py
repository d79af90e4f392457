"""Concurrency groups: each has its own executors, in sync and async actors; and calls that overtake."""

import asyncio
import threading

import pytest

import ray
from support import wait_for

pytestmark = pytest.mark.runtime(num_cpus=4)

GROUPS = {"io": 2, "single": 1}


class Counted:
    """Calls that stay until `size` of one kind run at once (or a moment too many would), and know how many there were at most."""

    def __init__(self):
        self.lock = threading.Lock()
        self.running, self.most, self.full = {}, {}, {}

    def stay(self, kind, size):
        with self.lock:
            full = self.full.setdefault(kind, threading.Event())
            self.running[kind] = self.running.get(kind, 0) + 1
            self.most[kind] = max(self.most.get(kind, 0), self.running[kind])
            if self.running[kind] >= size:
                full.set()
        assert full.wait(20)
        with self.lock:
            self.running[kind] -= 1
        return threading.get_ident()


@ray.remote(concurrency_groups=GROUPS)
class Threads(Counted):
    def plain(self, size=1):
        return self.stay("plain", size)

    @ray.method(concurrency_group="io")
    def io(self, size=2):
        return self.stay("io", size)

    @ray.method(concurrency_group="single")
    def single(self):
        return self.stay("single", 1)

    @ray.method(concurrency_group="io")
    def count(self, n):
        for i in range(n):
            self.stay("count", 2)
            yield i

    def at_most(self):
        return self.most

    def is_main_thread(self):
        return threading.current_thread() is threading.main_thread()


@ray.remote(concurrency_groups=GROUPS)
class Loops:
    def __init__(self):
        self.running, self.most, self.thread = {}, {}, threading.get_ident()

    async def stay(self, kind, size):
        self.running[kind] = self.running.get(kind, 0) + 1
        self.most[kind] = max(self.most.get(kind, 0), self.running[kind])
        while self.most[kind] < size:
            await asyncio.sleep(0.005)
        await asyncio.sleep(0)
        self.running[kind] -= 1
        return threading.get_ident()

    async def plain(self, size):
        return await self.stay("plain", size)

    @ray.method(concurrency_group="io")
    async def io(self):
        return await self.stay("io", 2)

    @ray.method(concurrency_group="single")
    async def single(self):
        return await self.stay("single", 1)

    @ray.method(concurrency_group="io")
    async def count(self, n):
        for i in range(n):
            await self.stay("count", 2)
            yield i

    @ray.method(concurrency_group="io")
    def block(self, gate):
        gate.pass_through()
        return "unblocked"

    async def ping(self):
        return "pong"

    @ray.method(concurrency_group="single")
    async def double_there(self, x):
        return await double.remote(x)

    async def at_most(self):
        return self.most

    async def is_thread_of_constructor(self):
        return threading.get_ident() == self.thread


@ray.remote
def double(x):
    return 2 * x


@ray.remote
def after(gate):
    gate.pass_through()
    return "late"


def test_threads_of_groups_are_as_many_as_asked():
    """Each group runs as many calls at once as its size, the default group one, and no thread serves two groups."""
    actor = Threads.remote()
    plain = [actor.plain.remote() for _ in range(5)]
    io = [actor.io.remote() for _ in range(10)]
    single = [actor.single.remote() for _ in range(5)]
    threads = [set(ray.get(refs)) for refs in (plain, io, single)]
    assert [len(ids) for ids in threads] == [1, 2, 1]
    assert len(set.union(*threads)) == 4
    assert ray.get(actor.at_most.remote()) == {"plain": 1, "io": 2, "single": 1}


def test_default_group_has_max_concurrency():
    """With groups, `max_concurrency` is the size of the default one."""
    actor = Threads.options(max_concurrency=3).remote()
    assert len(set(ray.get([actor.plain.remote(3) for _ in range(12)]))) == 3
    assert ray.get(actor.at_most.remote()) == {"plain": 3}


def test_actor_with_groups_does_not_run_in_the_main_thread():
    """A sync actor with groups counts as threaded, even with a default group of one."""
    assert ray.get(Threads.remote().is_main_thread.remote()) is False


def test_group_does_not_wait_for_another(gate):
    """A call that runs, and calls queued behind it, hold up their own group only."""

    @ray.remote(concurrency_groups={"other": 1})
    class Actor:
        def hold(self):
            gate.pass_through()

        @ray.method(concurrency_group="other")
        def ping(self, i):
            return i

    actor = Actor.remote()
    held = [actor.hold.remote() for _ in range(20)]
    wait_for(gate.pids, 30)
    assert ray.get([actor.ping.remote(i) for i in range(50)], timeout=20) == list(range(50))
    assert ray.wait(held, num_returns=1, timeout=0)[0] == []
    gate.open()
    assert ray.get(held) == [None] * 20


def test_calls_of_a_group_start_in_order():
    """Calls of one caller to a group of one run in the order they were made, whatever goes to other groups in between."""

    @ray.remote(concurrency_groups={"a": 1, "b": 1})
    class Log:
        def __init__(self):
            self.said = {"": [], "a": [], "b": []}

        def say(self, group, i):
            self.said[group].append(i)

        def all(self):
            return self.said

    log = Log.remote()
    say = {"": log.say, "a": log.say.options(concurrency_group="a"), "b": log.say.options(concurrency_group="b")}
    ray.get([say[group].remote(group, i) for i in range(200) for group in say])
    assert ray.get(log.all.remote()) == {group: list(range(200)) for group in say}


def test_options_move_a_call_to_a_group():
    """`.options(concurrency_group=...)` picks the group of a call; None and "" leave the method's own."""
    actor = Threads.remote()
    single = ray.get(actor.single.remote())
    assert ray.get(actor.plain.options(concurrency_group="single").remote()) == single
    assert ray.get(actor.io.options(concurrency_group="single").remote(1)) == single
    assert ray.get(actor.single.options(concurrency_group=None).remote()) == single
    assert ray.get(actor.single.options(concurrency_group="").remote()) == single


def test_unknown_group_is_refused():
    """A group that the class does not have is a mistake at the call site, and the actor lives on."""
    actor = Threads.remote()
    with pytest.raises(ValueError, match="no concurrency group 'oi'"):
        actor.plain.options(concurrency_group="oi").remote()
    assert isinstance(ray.get(actor.plain.remote()), int)


def test_generators_in_a_group():
    """A generator occupies its group's thread until it ends."""
    actor = Threads.remote()
    streams = [actor.count.remote(3) for _ in range(4)]
    assert [[ray.get(ref) for ref in stream] for stream in streams] == [[0, 1, 2]] * 4
    assert ray.get(actor.at_most.remote()) == {"count": 2}


def test_groups_are_known_to_every_handle():
    """A handle that was passed on, and one found by name, use the groups too."""

    @ray.remote
    def through(handle):
        return ray.get(handle.plain.options(concurrency_group="single").remote())

    actor = Threads.options(name="grouped").remote()
    single = ray.get(actor.single.remote())
    assert ray.get(through.remote(actor)) == single
    assert ray.get(ray.get_actor("grouped").single.remote()) == single
    ray.kill(actor)


def test_call_in_a_group_reaches_its_own_actor():
    """A call may wait for a call of another group of the same actor."""

    @ray.remote(concurrency_groups={"inner": 1})
    class Actor:
        def outer(self):
            me = ray.get_runtime_context().current_actor
            return ray.get([me.inner.remote(i) for i in range(10)])

        @ray.method(concurrency_group="inner")
        def inner(self, i):
            return i

    assert ray.get(Actor.remote().outer.remote(), timeout=30) == list(range(10))


def test_coroutines_of_groups_are_as_many_as_asked():
    """Each group of an async actor runs as many coroutines at once as its size, in a loop of its own."""
    actor = Loops.remote()
    plain = [actor.plain.remote(20) for _ in range(20)]
    io = [actor.io.remote() for _ in range(10)]
    single = [actor.single.remote() for _ in range(5)]
    threads = [set(ray.get(refs)) for refs in (plain, io, single)]
    assert [len(ids) for ids in threads] == [1, 1, 1]
    assert len(set.union(*threads)) == 3
    assert ray.get(actor.at_most.remote()) == {"plain": 20, "io": 2, "single": 1}
    assert ray.get(actor.is_thread_of_constructor.remote())


def test_default_group_of_an_async_actor_has_max_concurrency():
    """`max_concurrency` is the size of the default group of an async actor too."""
    actor = Loops.options(max_concurrency=3).remote()
    ray.get([actor.plain.remote(3) for _ in range(12)])
    assert ray.get(actor.at_most.remote()) == {"plain": 3}


def test_blocked_event_loop_holds_up_its_own_group_only(gate):
    """A method that blocks the event loop of one group does not stop the others."""
    actor = Loops.remote()
    blocked = actor.block.remote(gate)
    wait_for(gate.pids, 30)
    assert ray.get([actor.ping.remote() for _ in range(20)], timeout=20) == ["pong"] * 20
    assert ray.get(actor.single.remote(), timeout=20)
    assert ray.wait([blocked], timeout=0)[0] == []
    gate.open()
    assert ray.get(blocked) == "unblocked"


def test_refs_are_awaited_in_the_loop_of_a_group():
    """`await ref` works in the event loops of all groups."""
    actor = Loops.remote()
    assert ray.get([actor.double_there.remote(i) for i in range(5)]) == [0, 2, 4, 6, 8]


def test_async_generators_in_a_group():
    """An async generator counts as one running call of its group until it ends."""
    actor = Loops.remote()
    streams = [actor.count.remote(3) for _ in range(4)]
    assert [[ray.get(ref) for ref in stream] for stream in streams] == [[0, 1, 2]] * 4
    assert ray.get(actor.at_most.remote()) == {"count": 2}


def test_exit_actor_in_a_group_ends_the_actor():
    """`exit_actor` ends the whole actor, whichever group it is called in."""

    @ray.remote(concurrency_groups={"control": 1})
    class Sync:
        @ray.method(concurrency_group="control")
        def leave(self):
            ray.actor.exit_actor()

        def ping(self):
            return "pong"

    @ray.remote(concurrency_groups={"control": 1})
    class Async:
        @ray.method(concurrency_group="control")
        async def leave(self):
            ray.actor.exit_actor()

        async def ping(self):
            return "pong"

    for cls in (Sync, Async):
        actor = cls.remote()
        assert ray.get(actor.ping.remote()) == "pong"
        with pytest.raises(ray.exceptions.RayActorError):
            ray.get(actor.leave.remote())
        with pytest.raises(ray.exceptions.RayActorError):
            ray.get(actor.ping.remote())


@ray.remote
class Plain:
    def echo(self, x):
        return x


@ray.remote(max_concurrency=2)
class Threaded:
    def echo(self, x):
        return x


@ray.remote
class Async:
    async def echo(self, x):
        return x


@pytest.mark.parametrize(("cls", "allowed"), [(Plain, True), (Threaded, None), (Threaded, True), (Async, None), (Async, True)])
def test_call_that_waits_for_arguments_is_overtaken(gate, cls, allowed):
    """With allow_out_of_order_execution, which is the default where calls run side by side, later calls don't wait for an argument."""
    actor = cls.options(allow_out_of_order_execution=allowed).remote()
    first = actor.echo.remote(after.remote(gate))
    assert ray.get([actor.echo.remote(i) for i in range(10)], timeout=30) == list(range(10))
    assert ray.wait([first], timeout=0)[0] == []
    gate.open()
    assert ray.get(first) == "late"


@pytest.mark.parametrize("allowed", [None, False])
def test_plain_actor_keeps_the_order(gate, allowed):
    """An actor that runs one call at a time does not let calls overtake, unless it is told to."""
    actor = Plain.options(allow_out_of_order_execution=allowed).remote()
    ray.get(actor.echo.remote(0))
    first, second = actor.echo.remote(after.remote(gate)), actor.echo.remote(1)
    wait_for(gate.pids, 30)
    assert ray.wait([second], timeout=0.2)[0] == []
    gate.open()
    assert ray.get([first, second]) == ["late", 1]


@pytest.mark.parametrize("cls", [Threaded, Async])
def test_order_can_not_be_asked_of_calls_side_by_side(cls):
    """allow_out_of_order_execution=False contradicts a threaded or async actor."""
    with pytest.raises(ValueError, match="allow_out_of_order_execution"):
        cls.options(allow_out_of_order_execution=False).remote()


def test_groups_do_not_wait_for_arguments_of_another(gate):
    """A call that waits for an argument holds up its own group only."""
    actor = Threads.remote()
    first = actor.plain.remote(after.remote(gate))
    assert ray.get([actor.single.remote() for _ in range(3)], timeout=20)
    assert ray.wait([first], timeout=0)[0] == []
    ray.kill(actor)
    gate.open()

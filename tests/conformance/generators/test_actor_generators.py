"""Generators as methods: of plain, threaded and async actors."""

import asyncio
import threading

import pytest

import ray
from ray.exceptions import ActorDiedError
from support import wait_for

pytestmark = pytest.mark.runtime(num_cpus=4)


def values(generator):
    return [ray.get(ref) for ref in generator]


@ray.remote
class Source:
    def __init__(self):
        self.given = 0

    def items(self, n):
        for i in range(n):
            self.given += 1
            yield i

    @ray.method(num_returns="streaming")
    def marked(self, n):
        for i in range(n):  # noqa: UP028
            yield i

    @ray.method(num_returns="dynamic")
    def counted(self, n):
        for i in range(n):  # noqa: UP028
            yield i

    @ray.method(num_returns=2)
    def pair(self):
        yield "a"
        yield "b"

    def fails(self):
        yield 1
        raise ValueError("of the method")

    def total(self):
        return self.given


def test_method_generator_streams_by_itself_or_marked():
    """A generator method streams without being told, and with `@ray.method(num_returns="streaming")`."""
    source = Source.remote()
    assert isinstance(source.items.remote(1), ray.ObjectRefGenerator)
    assert values(source.items.remote(3)) == [0, 1, 2]
    assert values(source.marked.remote(3)) == [0, 1, 2]


def test_method_generator_with_other_returns():
    """Other values of num_returns are as for functions."""
    source = Source.remote()
    assert [ray.get(ref) for ref in ray.get(source.counted.remote(3))] == [0, 1, 2]
    assert ray.get(source.pair.remote()) == ["a", "b"]


def test_method_generator_runs_in_order_with_other_calls():
    """A call behind a generator sees what all of it has done."""
    source = Source.remote()
    generator, total = source.items.remote(100), source.total.remote()
    assert ray.get(total) == 100
    assert len(list(generator)) == 100


def test_method_generator_error_is_its_last_item():
    """As for functions; the actor lives on."""
    source = Source.remote()
    refs = list(source.fails.remote())
    assert ray.get(refs[0]) == 1
    with pytest.raises(ValueError, match="of the method"):
        ray.get(refs[1])
    assert ray.get(source.total.remote()) == 0


def test_threaded_actor_runs_generators_side_by_side():
    """Two generators of a threaded actor can meet."""

    @ray.remote(max_concurrency=2)
    class Meeting:
        def __init__(self):
            self.barrier = threading.Barrier(2)

        def items(self):
            for i in range(3):
                self.barrier.wait(20)
                yield i

    actor = Meeting.remote()
    first, second = actor.items.remote(), actor.items.remote()
    assert (values(first), values(second)) == ([0, 1, 2], [0, 1, 2])


@ray.remote
class AsyncSource:
    def __init__(self):
        self.may_go_on = asyncio.Event()

    async def items(self, n):
        for i in range(n):
            await asyncio.sleep(0)
            yield i

    def plain(self, n):
        for i in range(n):  # noqa: UP028
            yield i

    async def fails(self):
        yield 1
        raise ValueError("of the coroutine")

    async def held(self):
        yield 1
        await self.may_go_on.wait()
        yield 2

    async def go_on(self):
        self.may_go_on.set()

    async def endless(self, tally):
        try:
            while True:
                await asyncio.sleep(0.01)
                yield 1
        finally:
            tally.add("cleanup")


def test_async_actor_streams_asynchronous_and_plain_generators():
    """Both kinds of generators stream from an async actor."""
    source = AsyncSource.remote()
    assert values(source.items.remote(5)) == [0, 1, 2, 3, 4]
    assert values(source.plain.remote(5)) == [0, 1, 2, 3, 4]
    assert values(source.items.remote(3000)) == list(range(3000))


def test_async_actor_generator_error_is_its_last_item():
    """As for functions."""
    refs = list(AsyncSource.remote().fails.remote())
    assert ray.get(refs[0]) == 1
    with pytest.raises(ValueError, match="of the coroutine"):
        ray.get(refs[1])


def test_async_actor_takes_calls_while_a_generator_waits():
    """A generator that awaits leaves the loop to others, and its items so far can be read."""
    source = AsyncSource.remote()
    generator = source.held.remote()
    assert ray.get(next(generator)) == 1
    assert ray.wait([generator], timeout=0.1)[0] == []
    ray.get(source.go_on.remote())
    assert values(generator) == [2]


def test_async_actor_generator_dropped_early_stops():
    """Nobody reads: the asynchronous generator is closed."""
    import tempfile

    from support import Tally

    with tempfile.TemporaryDirectory() as folder:
        tally = Tally(f"{folder}/tally")
        generator = AsyncSource.remote().endless.remote(tally)
        next(generator)
        del generator
        wait_for(lambda: tally.words() == ["cleanup"], 10)


def test_actor_reads_a_generator_of_another_actor():
    """An async actor may read with `async for`."""

    @ray.remote
    class Reader:
        async def total(self, source, n):
            return sum([await ref async for ref in source.items.remote(n)])

    assert ray.get(Reader.remote().total.remote(Source.remote(), 50)) == sum(range(50))


def test_generator_of_a_killed_actor_gives_the_error_and_ends():
    """A call of a dead actor has one reference, which raises ActorDiedError."""
    source = Source.remote()
    ray.get(source.total.remote())
    ray.kill(source)
    generator = source.items.remote(3)
    refs = list(generator)
    assert len(refs) == 1
    with pytest.raises(ActorDiedError):
        ray.get(refs[0])
    with pytest.raises(ActorDiedError):
        ray.get(generator.completed())

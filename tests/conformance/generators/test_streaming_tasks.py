"""Remote generator functions: items one by one, their end, their errors."""

import asyncio
import pickle
import time

import pytest

import ray
from ray.exceptions import RayTaskError
from support import wait_for

np = pytest.importorskip("numpy")
pytestmark = pytest.mark.runtime(num_cpus=4)


@ray.remote
def count(n):
    for i in range(n):  # noqa: UP028  Ray refuses `yield from` a plain iterator
        yield i


@ray.remote
def gated(gate, before, after):
    """Yields `before` items, waits at the gate, and yields `after` more."""
    for i in range(before):
        yield i
    gate.pass_through()
    for i in range(before, before + after):
        yield i


@ray.remote
def fails_after(n):
    for i in range(n):  # noqa: UP028
        yield i
    raise ValueError("at the end")


def values(generator):
    return [ray.get(ref) for ref in generator]


def test_generator_gives_references_to_its_items_in_order():
    """Calling a generator function gives an ObjectRefGenerator, which gives one ObjectRef per item."""
    generator = count.remote(5)
    assert isinstance(generator, ray.ObjectRefGenerator)
    assert iter(generator) is generator
    refs = list(generator)
    assert all(isinstance(ref, ray.ObjectRef) for ref in refs)
    assert ray.get(refs) == [0, 1, 2, 3, 4]


def test_generator_item_is_there_while_the_generator_runs(gate):
    """An item can be read as soon as it was yielded; the next one is waited for."""
    generator = gated.remote(gate, 2, 1)
    assert [ray.get(next(generator)), ray.get(next(generator))] == [0, 1]
    assert ray.wait([generator], timeout=0.2) == ([], [generator])
    gate.open()
    assert ray.get(next(generator)) == 2
    with pytest.raises(StopIteration):
        next(generator)


def test_generator_of_many_items_gives_each_once():
    """More items than any window inside arrive once, in order."""
    assert values(count.remote(5000)) == list(range(5000))


def test_generator_without_items_ends_at_once():
    """A generator that yields nothing gives nothing."""
    assert list(count.remote(0)) == []


def test_generator_raises_stop_iteration_again_and_again():
    """Once it has ended it stays ended."""
    generator = count.remote(1)
    assert values(generator) == [0]
    for _ in range(3):
        with pytest.raises(StopIteration):
            next(generator)


def test_generator_error_comes_after_the_items_before_it():
    """What the generator raises is its last reference: getting that raises it, then the generator ends."""
    refs = list(fails_after.remote(2))
    assert len(refs) == 3
    assert ray.get(refs[:2]) == [0, 1]
    with pytest.raises(ValueError, match="at the end") as caught:
        ray.get(refs[2])
    assert isinstance(caught.value, RayTaskError)


def test_generator_error_is_tried_again_without_repeating_items(tally):
    """With retry_exceptions the generator runs again; items that were given are not given again."""

    @ray.remote(retry_exceptions=True, max_retries=1)
    def flaky(tally):
        attempt = tally.add()
        for i in range(3):
            yield attempt, i
        if attempt == 1:
            raise ValueError("once")
        yield attempt, 3

    assert values(flaky.remote(tally)) == [(1, 0), (1, 1), (1, 2), (2, 3)]


def test_generator_item_that_cannot_be_pickled_is_its_error():
    """An item that can't be sent ends the generator with the reason."""

    @ray.remote
    def locks():
        import threading

        yield 1
        yield threading.Lock()
        yield 3

    refs = list(locks.remote())
    assert ray.get(refs[0]) == 1
    assert len(refs) == 2
    with pytest.raises(TypeError, match="lock"):
        ray.get(refs[1])


def test_generator_whose_argument_failed_gives_that_error():
    """A generator that can't start has one reference, which raises why."""

    @ray.remote
    def fails():
        raise KeyError("argument")

    refs = list(count.remote(fails.remote()))
    assert len(refs) == 1
    with pytest.raises(KeyError):
        ray.get(refs[0])


def test_generator_completed_is_ready_at_its_end(gate):
    """`completed()` is a reference to None that is ready when the generator has ended, read or not."""
    generator = gated.remote(gate, 1, 1)
    done = generator.completed()
    assert ray.wait([done], timeout=0.2)[0] == []
    gate.open()
    assert ray.get(done) is None
    assert values(generator) == [0, 1]
    assert ray.get(generator.completed()) is None


def test_generator_completed_is_no_failure_when_the_generator_raises():
    """`completed()` gives None also after an exception of the user's; that is in the last item."""
    generator = fails_after.remote(1)
    assert ray.get(generator.completed()) is None
    assert len(list(generator)) == 2


def test_generator_says_what_is_ready_and_what_is_over():
    """`next_ready` is true while there is something to take, `is_finished` once all was taken."""
    generator = count.remote(2)
    ray.get(generator.completed())
    assert (generator.next_ready(), generator.is_finished()) == (True, False)
    next(generator)
    next(generator)
    assert (generator.next_ready(), generator.is_finished()) == (False, True)


def test_generator_next_sync_gives_nil_after_its_timeout(gate):
    """`_next_sync` waits so long at most, and then gives the nil reference."""
    generator = gated.remote(gate, 1, 1)
    assert ray.get(generator._next_sync(20)) == 0
    assert generator._next_sync(0.1).is_nil()
    assert generator._next_sync(0).is_nil()
    gate.open()
    assert ray.get(generator._next_sync(20)) == 1
    with pytest.raises(StopIteration):
        generator._next_sync(20)


def test_generator_large_items_arrive_whole():
    """Items beyond the size of a message go through shared memory."""

    @ray.remote
    def arrays(n):
        for i in range(n):
            yield np.full(300_000, i, dtype=np.int32)

    found = values(arrays.remote(8))
    assert [int(array[0]) for array in found] == list(range(8))
    assert all(array.shape == (300_000,) and not array.flags.writeable for array in found)
    assert np.array_equal(found[-1], np.full(300_000, 7, dtype=np.int32))


def test_generator_items_outlive_the_generator():
    """A reference that was taken is good for as long as it is held."""
    generator = count.remote(3)
    refs = [next(generator), next(generator)]
    del generator
    assert ray.get(refs) == [0, 1]


def test_generator_items_may_be_arguments():
    """References to items go wherever references go."""

    @ray.remote
    def add(a, b):
        return a + b

    first, second = count.remote(2)
    assert ray.get(add.remote(first, second)) == 1


def test_generator_may_yield_references():
    """References inside items stay good after the generator has ended."""

    @ray.remote
    def put_and_yield(outer):
        yield outer
        yield [ray.put("inner")]

    outer = ray.put("outer")
    given, made = values(put_and_yield.remote([outer]))
    assert ray.get(given[0]) == "outer"
    assert ray.get(made[0]) == "inner"


def test_generator_can_be_read_inside_a_task():
    """A task may call a generator and read it, also when it keeps the only CPU otherwise."""

    @ray.remote(num_cpus=4)
    def total(n):
        return sum(ray.get(ref) for ref in count.options(num_cpus=4).remote(n))

    assert ray.get(total.remote(100)) == 4950


def test_generator_is_iterated_by_async_for():
    """`async for` gives references, and awaiting one gives its value."""

    async def read():
        return [await ref async for ref in count.remote(5)]

    assert asyncio.run(read()) == [0, 1, 2, 3, 4]


def test_generator_async_next_waits_without_blocking_the_loop(gate):
    """While one coroutine awaits an item, others run."""

    async def read():
        generator = gated.remote(gate, 0, 1)
        waiting = asyncio.ensure_future(generator.__anext__())
        done, _ = await asyncio.wait([waiting], timeout=0.2)
        assert not done
        gate.open()
        assert await (await waiting) == 0
        with pytest.raises(StopAsyncIteration):
            await generator.__anext__()

    asyncio.run(read())


def test_generator_async_next_may_be_cancelled(gate):
    """A cancelled `__anext__` loses no item."""

    async def read():
        generator = gated.remote(gate, 0, 2)
        waiting = asyncio.ensure_future(generator.__anext__())
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        gate.open()
        return [await ref async for ref in generator]

    assert asyncio.run(read()) == [0, 1]


def test_wait_takes_generators_and_references(gate):
    """A generator is ready when its next item is, and stays what it is."""
    early, late, ref = count.remote(2), gated.remote(gate, 0, 1), ray.put(1)
    ready, rest = ray.wait([late, early, ref], num_returns=2, timeout=20)
    assert [one is expected for one, expected in zip(ready, [early, ref], strict=True)] == [True, True]
    assert len(rest) == 1
    assert rest[0] is late
    assert values(early) == [0, 1]
    assert ray.wait([early], timeout=20) == ([early], [])
    gate.open()
    assert ray.wait([late], timeout=20) == ([late], [])


def test_wait_refuses_a_generator_given_twice():
    """As for references, each may stand in the list once."""
    generator = count.remote(1)
    with pytest.raises(ValueError, match="unique|duplicate"):
        ray.wait([generator, generator], timeout=5)


def test_get_gives_a_generator_back():
    """`ray.get` of a generator is the generator, and of a list with one is an error."""
    generator = count.remote(1)
    assert ray.get(generator) is generator
    with pytest.raises(TypeError, match="ObjectRef"):
        ray.get([generator])


@pytest.mark.parametrize("use", ["argument", "inside", "put", "pickle"])
def test_generator_stays_in_its_process(use):
    """A generator can't be passed on, put or pickled."""

    @ray.remote
    def take(value):
        return value

    generator = count.remote(1)
    ways = {
        "argument": lambda: take.remote(generator),
        "inside": lambda: take.remote([generator]),
        "put": lambda: ray.put(generator),
        "pickle": lambda: pickle.dumps(generator),
    }
    with pytest.raises(TypeError, match="ObjectRefGenerator"):
        ways[use]()


def test_generator_can_not_be_sent_into():
    """send, throw and close of Python's generators have no remote counterpart."""
    generator = count.remote(1)
    for call in (lambda: generator.send(1), lambda: generator.throw(ValueError()), generator.close):
        with pytest.raises(NotImplementedError):
            call()


def test_generator_dropped_early_stops_at_its_next_yield(tally):
    """When nobody can read any more, the generator gets GeneratorExit at its `yield` and cleans up."""

    @ray.remote
    def endless(tally):
        try:
            while True:
                time.sleep(0.01)
                yield 1
        except GeneratorExit:
            tally.add("exit")
            raise
        finally:
            tally.add("cleanup")

    generator = endless.remote(tally)
    next(generator)
    del generator
    wait_for(lambda: tally.words() == ["exit", "cleanup"], 10)


def test_generator_whose_end_is_awaited_runs_to_its_end(tally):
    """A reference to its completion keeps a generator going that nobody reads."""

    @ray.remote
    def work(tally):
        for i in range(5):
            yield i
            tally.add(i)

    done = work.remote(tally).completed()
    assert ray.get(done) is None
    assert tally.words() == ["0", "1", "2", "3", "4"]

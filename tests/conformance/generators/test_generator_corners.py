"""Generators at their corners: errors in the middle, retries, returns said in other ways, readers of every kind."""

import asyncio
import os

import pytest

import ray
from ray.exceptions import RayActorError, RayTaskError, WorkerCrashedError
from support import wait_for

pytestmark = [pytest.mark.runtime(num_cpus=4), pytest.mark.limit(20)]


@ray.remote(num_cpus=0)
def count(n):
    for i in range(n):  # noqa: UP028  Ray refuses `yield from` a plain iterator
        yield i


@ray.remote(num_cpus=0)
def broken(at, total):
    for i in range(total):
        if i == at:
            raise ValueError(f"broken at {i}")
        yield i


@ray.remote(num_cpus=0)
def with_return():
    yield 1
    return 2


@ray.remote(num_cpus=0)
def add(*values):
    return sum(values)


@ray.remote(num_cpus=0)
class Maker:
    def __init__(self):
        self.n = 0

    def count(self, n):
        for _ in range(n):
            self.n += 1
            yield self.n

    def total(self):
        return self.n

    def broken(self):
        yield 1
        raise KeyError("in a method")

    def refs(self, n):
        for i in range(n):
            yield ray.put(i)


@ray.remote(num_cpus=0)
class AsyncMaker:
    async def count(self, n):
        for i in range(n):
            await asyncio.sleep(0)
            yield i

    async def broken(self):
        yield 1
        raise KeyError("in a coroutine")

    async def read(self, n):
        return [await ref async for ref in count.remote(n)]


def outcome(ref):
    try:
        return ray.get(ref)
    except RayTaskError:
        return "RayTaskError"


def test_error_in_the_middle_ends_the_generator():
    """Items before it, the error, and no more."""
    assert [outcome(ref) for ref in broken.remote(2, 5)] == [0, 1, "RayTaskError"]


def test_error_before_the_first_item_is_the_only_one():
    """A generator that raises at once gives one reference."""
    assert [outcome(ref) for ref in broken.remote(0, 5)] == ["RayTaskError"]


def test_error_in_the_middle_is_of_the_users_class():
    """It can be caught as what it is."""
    *_, last = broken.remote(1, 5)
    with pytest.raises(ValueError, match="broken at 1"):
        ray.get(last)


def test_error_in_a_method_leaves_the_actor_alive():
    """The next generator of the same actor is a new one."""
    maker = Maker.remote()
    refs = list(maker.broken.remote())
    assert ray.get(refs[0]) == 1
    with pytest.raises(KeyError):
        ray.get(refs[1])
    assert [ray.get(ref) for ref in maker.count.remote(2)] == [1, 2]


def test_error_under_async_for_is_an_item():
    """The loop does not raise; awaiting the last reference does."""

    async def read():
        return [await asyncio.gather(ref, return_exceptions=True) async for ref in broken.remote(1, 3)]

    (first,), (second,) = asyncio.run(read())
    assert first == 0
    assert isinstance(second, ValueError)


def test_error_in_an_async_generator_is_its_last_item():
    """As in plain ones."""
    maker = AsyncMaker.remote()
    refs = list(maker.broken.remote())
    assert ray.get(refs[0]) == 1
    with pytest.raises(KeyError, match="in a coroutine"):
        ray.get(refs[1])


def test_return_value_of_a_generator_is_lost():
    """Only what is yielded is an item."""
    assert [ray.get(ref) for ref in with_return.remote()] == [1]


def test_same_item_may_be_read_again_and_again():
    """An item is an object like any other."""
    ref = next(count.remote(1))
    assert [ray.get(ref) for _ in range(3)] == [0, 0, 0]


def test_two_generators_are_read_in_turn():
    """Readers do not disturb each other."""
    left, right = count.remote(3), count.remote(3)
    assert [(ray.get(next(left)), ray.get(next(right))) for _ in range(3)] == [(0, 0), (1, 1), (2, 2)]


def test_items_are_arguments_before_they_are_read():
    """References may be passed on without being looked at."""
    assert ray.get(add.remote(*count.remote(4))) == 6


def test_items_go_from_a_generator_of_one_actor_to_another():
    """A method takes an item of another actor's generator."""

    @ray.remote(num_cpus=0)
    class Sum:
        def __init__(self):
            self.total = 0

        def add(self, value):
            self.total += value
            return self.total

    maker, adder = Maker.remote(), Sum.remote()
    assert ray.get([adder.add.remote(ref) for ref in maker.count.remote(3)]) == [1, 3, 6]


def test_items_may_be_references_of_the_actor():
    """A yielded reference is an item whose value is a reference."""
    maker = Maker.remote()
    assert [ray.get(ray.get(ref)) for ref in maker.refs.remote(3)] == [0, 1, 2]


def test_generator_inside_a_generator():
    """A generator task reads another one and yields on."""

    @ray.remote(num_cpus=0)
    def doubled(n):
        for ref in count.remote(n):
            yield 2 * ray.get(ref)

    assert [ray.get(ref) for ref in doubled.remote(3)] == [0, 2, 4]


def test_async_actor_reads_a_generator_with_async_for():
    """Inside a coroutine of an actor."""
    maker = AsyncMaker.remote()
    assert ray.get(maker.read.remote(4)) == [0, 1, 2, 3]


def test_async_generators_of_one_actor_run_side_by_side():
    """Two at a time, each complete and in order."""
    maker = AsyncMaker.remote()
    left, right = maker.count.remote(20), maker.count.remote(20)
    assert [ray.get(ref) for ref in right] == list(range(20))
    assert [ray.get(ref) for ref in left] == list(range(20))


def test_generator_half_read_leaves_the_rest_for_later():
    """Reading may stop and go on."""
    generator = count.remote(4)
    first = [ray.get(next(generator)) for _ in range(2)]
    assert first + [ray.get(ref) for ref in generator] == [0, 1, 2, 3]


def test_generator_in_a_for_loop_with_break():
    """Leaving the loop early is allowed; what was read stays readable."""
    kept = []
    for ref in count.remote(1000):
        kept.append(ref)
        if len(kept) == 3:
            break
    assert ray.get(kept) == [0, 1, 2]


def test_number_of_returns_must_match_what_is_yielded():
    """With `num_returns=2` a generator gives two plain references, and has to yield as many; more are not asked for."""
    assert ray.get(count.options(num_returns=2).remote(2)) == [0, 1]
    assert ray.get(Maker.remote().count.options(num_returns=2).remote(3)) == [1, 2]
    with pytest.raises(ValueError):
        ray.get(count.options(num_returns=3).remote(2))


def test_dynamic_generator_of_a_method():
    """`num_returns="dynamic"` on one call."""
    maker = Maker.remote()
    refs = list(ray.get(maker.count.options(num_returns="dynamic").remote(3)))
    assert ray.get(refs) == [1, 2, 3]


def test_dynamic_generator_without_items():
    """An empty list of references."""

    @ray.remote(num_cpus=0, num_returns="dynamic")
    def none():
        return
        yield

    assert list(ray.get(none.remote())) == []


def test_dynamic_generator_may_be_read_by_a_task():
    """Passed as an argument its value arrives, a list of references."""

    @ray.remote(num_cpus=0)
    def read(refs):
        return [ray.get(ref) for ref in refs]

    assert ray.get(read.remote(count.options(num_returns="dynamic").remote(3))) == [0, 1, 2]


def test_backpressure_option_of_one_call(tally):
    """The window can be given with the call."""

    @ray.remote(num_cpus=0)
    def noted(n):
        for i in range(n):
            tally.add(i)
            yield i

    generator = noted.options(_generator_backpressure_num_objects=2).remote(10)
    assert ray.get(next(generator)) == 0
    wait_for(lambda: tally.count() >= 2)
    assert tally.count() <= 4
    assert [ray.get(ref) for ref in generator] == list(range(1, 10))


def test_backpressure_of_every_generator_of_an_actor(tally):
    """`_generator_backpressure_num_objects` of a method."""

    @ray.remote(num_cpus=0)
    class Noted:
        @ray.method(_generator_backpressure_num_objects=1)
        def items(self, n):
            for i in range(n):
                tally.add(i)
                yield i

    actor = Noted.remote()
    generator = actor.items.remote(5)
    assert ray.get(next(generator)) == 0
    assert tally.count() <= 3
    assert [ray.get(ref) for ref in generator] == [1, 2, 3, 4]


def test_generator_whose_worker_dies_is_run_again(tally):
    """Items that were read are not given a second time."""

    @ray.remote(num_cpus=0, max_retries=1)
    def mortal(tally):
        attempt = tally.add()
        for i in range(4):
            if i == 2 and attempt == 1:
                os._exit(1)
            yield i

    assert [ray.get(ref) for ref in mortal.remote(tally)] == [0, 1, 2, 3]
    assert tally.count() == 2


def test_generator_whose_worker_dies_without_retries_fails():
    """What was yielded, perhaps, and then the death of the worker."""

    @ray.remote(num_cpus=0, max_retries=0)
    def mortal():
        yield 1
        os._exit(1)

    *_, last = mortal.remote()
    with pytest.raises(WorkerCrashedError):
        ray.get(last)


def test_generator_of_a_dead_actor_raises():
    """A call to an actor that is gone gives one reference that says so."""
    maker = Maker.remote()
    ray.get(maker.total.remote())
    ray.kill(maker)
    *_, last = maker.count.remote(2)
    with pytest.raises(RayActorError):
        ray.get(last)


def test_wait_for_several_generators_gives_those_with_an_item(gate):
    """`ray.wait` takes generators: one that has an item is ready."""

    @ray.remote(num_cpus=0)
    def gated(gate):
        gate.pass_through()
        yield 1

    quick, slow = count.remote(1), gated.remote(gate)
    ready, rest = ray.wait([quick, slow], num_returns=1)
    assert ready == [quick] and rest == [slow]
    gate.open()
    assert ray.get(next(slow)) == 1


def test_completed_of_a_method_is_awaited(gate):
    """The end can be waited for without reading."""
    maker = Maker.remote()
    generator = maker.count.remote(3)
    assert ray.get(generator.completed()) is None
    assert ray.get(maker.total.remote()) == 3
    assert len(list(generator)) == 3

"""`ray.cancel` of generators: the items made so far arrive, then the cancellation."""

import asyncio
import time

import pytest

import ray
from ray.exceptions import TaskCancelledError
from support import wait_for

pytestmark = [pytest.mark.runtime(num_cpus=2, resources={"one": 1}), pytest.mark.limit(30)]


@ray.remote
def three_then_wait(tally):
    try:
        for number in range(3):  # noqa: UP028 - Ray sends into what a generator yields from, and a range takes nothing
            yield number
        tally.add("three")
        while True:
            time.sleep(0.01)
    except BaseException as error:
        tally.add(type(error).__name__)
        raise


@ray.remote
class Source:
    async def three_then_wait(self, tally):
        for i in range(3):
            yield i
        tally.add("three")
        try:
            await asyncio.sleep(3600)
        except BaseException as error:
            tally.add(type(error).__name__)
            raise

    async def ok(self):
        return "ok"


def read(generator):
    """Values up to the first error, and that."""
    values = []
    for ref in generator:
        try:
            values.append(ray.get(ref, timeout=15))
        except TaskCancelledError as error:
            return values, error
    return values, None


def test_cancel_generator_gives_its_items_then_the_cancellation(tally):
    """Items made before are read; then comes TaskCancelledError, and then nothing."""
    generator = three_then_wait.remote(tally)
    wait_for(lambda: "three" in tally.words())
    ray.cancel(generator)
    values, error = read(generator)
    assert values == [0, 1, 2]
    assert isinstance(error, TaskCancelledError)
    with pytest.raises(StopIteration):
        next(generator)
    wait_for(lambda: "KeyboardInterrupt" in tally.words(), timeout_s=15)


def test_cancel_queued_generator(tally):
    """One that has not started gives the cancellation alone."""

    @ray.remote(resources={"one": 1})
    def hold(gate_tally):
        gate_tally.add("hold")
        while True:
            time.sleep(0.01)

    holder = hold.remote(tally)
    wait_for(lambda: "hold" in tally.words())
    generator = three_then_wait.options(resources={"one": 1}).remote(tally)
    ray.cancel(generator)
    values, error = read(generator)
    assert values == []
    assert isinstance(error, TaskCancelledError)
    ray.cancel(holder)
    with pytest.raises(TaskCancelledError):
        ray.get(holder, timeout=15)
    assert "three" not in tally.words()


def test_cancel_generator_that_waits_for_its_reader(tally):
    """A producer that may not run ahead any further is interrupted where it stands."""

    @ray.remote(_generator_backpressure_num_objects=1)
    def careful():
        try:
            for i in range(100):
                tally.add(f"made{i}")
                yield i
        finally:
            tally.add("closed")

    generator = careful.remote()
    assert ray.get(next(generator), timeout=15) == 0
    wait_for(lambda: "made1" in tally.words())
    ray.cancel(generator)
    values, error = read(generator)
    assert values in ([], [1], [1, 2])
    assert isinstance(error, TaskCancelledError)
    wait_for(lambda: "closed" in tally.words(), timeout_s=15)


def test_cancel_async_generator_of_an_actor(tally):
    """A coroutine that yields sees asyncio.CancelledError, and the actor goes on."""
    source = Source.remote()
    generator = source.three_then_wait.remote(tally)
    wait_for(lambda: "three" in tally.words())
    ray.cancel(generator)
    values, error = read(generator)
    assert values == [0, 1, 2]
    assert isinstance(error, TaskCancelledError)
    wait_for(lambda: "CancelledError" in tally.words(), timeout_s=15)
    assert ray.get(source.ok.remote(), timeout=15) == "ok"


def test_cancel_finished_generator_changes_nothing():
    """All its items can be read."""

    @ray.remote
    def count(n):
        for number in range(n):  # noqa: UP028 - as above
            yield number

    generator = count.remote(3)
    ray.get(generator.completed(), timeout=15)
    ray.cancel(generator)
    assert read(generator) == ([0, 1, 2], None)


def test_cancel_generator_is_seen_by_an_async_reader(tally):
    """`async for` gives the items and then the cancellation."""
    generator = three_then_wait.remote(tally)
    wait_for(lambda: "three" in tally.words())
    ray.cancel(generator)

    async def read_all():
        values = []
        async for ref in generator:
            try:
                values.append(await ref)
            except TaskCancelledError:
                values.append("cancelled")
        return values

    assert asyncio.run(read_all()) == [0, 1, 2, "cancelled"]


def test_cancel_generator_wakes_its_reader(tally):
    """A reader that waits for the next item is woken."""
    import threading

    generator = three_then_wait.remote(tally)
    got = []
    thread = threading.Thread(target=lambda: got.append(read(generator)))
    thread.start()
    wait_for(lambda: "three" in tally.words())
    ray.cancel(generator)
    thread.join(15)
    values, error = got[0]
    assert values == [0, 1, 2]
    assert isinstance(error, TaskCancelledError)


def test_cancel_dynamic_generator(tally):
    """One whose items come all at once ends with the cancellation."""
    ref = three_then_wait.options(num_returns="dynamic").remote(tally)
    wait_for(lambda: "three" in tally.words())
    ray.cancel(ref)
    with pytest.raises(TaskCancelledError):
        ray.get(ref, timeout=15)


def test_cancel_generator_of_a_sync_actor_stops_at_its_next_yield(tally):
    """The method is not interrupted: it stops where it gives its next item, and the actor goes on."""

    @ray.remote
    class Endless:
        def count(self):
            try:
                i = 0
                while True:
                    yield i
                    i += 1
                    tally.add(i)
                    time.sleep(0.01)
            finally:
                tally.add("closed")

        def ok(self):
            return "ok"

    actor = Endless.remote()
    generator = actor.count.remote()
    assert ray.get(next(generator), timeout=15) == 0
    ray.cancel(generator)
    values, error = read(generator)
    assert values == list(range(1, 1 + len(values)))
    assert isinstance(error, TaskCancelledError)
    assert ray.get(actor.ok.remote(), timeout=15) == "ok"
    assert "closed" in tally.words()

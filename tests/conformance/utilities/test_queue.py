"""`ray.util.queue.Queue`."""

import asyncio
import queue as standard

import pytest

import ray
from ray.util.queue import Empty, Full, Queue
from support import wait_for

pytestmark = pytest.mark.runtime(num_cpus=4)


@pytest.fixture
def small():
    made = Queue(maxsize=2, actor_options={"num_cpus": 0})
    yield made
    made.shutdown(force=True)


@pytest.fixture
def endless():
    made = Queue(actor_options={"num_cpus": 0})
    yield made
    made.shutdown(force=True)


def test_queue_is_first_in_first_out(endless):
    """Items come out in the order in which they went in."""
    for item in (1, "two", None, [4]):
        endless.put(item)
    assert [endless.get() for _ in range(4)] == [1, "two", None, [4]]


def test_queue_sizes(small):
    """len, size, qsize, empty and full agree."""
    assert small.empty()
    small.put(1)
    assert (len(small), small.size(), small.qsize(), small.empty(), small.full()) == (1, 1, 1, False, False)
    small.put(2)
    assert small.full()


def test_queue_errors_are_those_of_the_standard_library():
    """`except queue.Empty` and `except queue.Full` catch them."""
    assert issubclass(Empty, standard.Empty)
    assert issubclass(Full, standard.Full)


def test_queue_nowait_raises(small):
    """Without waiting, an empty queue and a full one are errors."""
    with pytest.raises(Empty):
        small.get_nowait()
    with pytest.raises(Empty):
        small.get(block=False)
    small.put_nowait(1)
    small.put_nowait(2)
    with pytest.raises(Full):
        small.put_nowait(3)
    with pytest.raises(Full):
        small.put(3, block=False)


def test_queue_timeouts_raise(small):
    """A wait that is over is an error as well; nothing is lost or added."""
    with pytest.raises(Empty):
        small.get(timeout=0.05)
    small.put_nowait_batch([1, 2])
    with pytest.raises(Full):
        small.put(3, timeout=0.05)
    assert small.get_nowait_batch(2) == [1, 2]


def test_queue_negative_timeout_is_refused(small):
    """ValueError, at once."""
    with pytest.raises(ValueError):
        small.get(timeout=-1)
    with pytest.raises(ValueError):
        small.put(1, timeout=-1)


def test_queue_batches_are_all_or_nothing(small):
    """A batch that does not fit, or is not there, changes nothing."""
    with pytest.raises(Full):
        small.put_nowait_batch([1, 2, 3])
    assert small.size() == 0
    small.put_nowait_batch([1])
    with pytest.raises(Empty):
        small.get_nowait_batch(2)
    assert small.get_nowait_batch(1) == [1]
    assert small.get_nowait_batch(0) == []


def test_queue_batch_arguments_are_checked(small):
    """What can't be iterated over, and a number that is none, are errors of the caller."""
    with pytest.raises(TypeError):
        small.put_nowait_batch(5)
    with pytest.raises(TypeError):
        small.get_nowait_batch("2")
    with pytest.raises(ValueError):
        small.get_nowait_batch(-1)


def test_queue_get_waits_for_a_put(endless):
    """A task that takes waits for one that gives."""

    @ray.remote(num_cpus=0)
    def take(queue):
        return queue.get(timeout=30)

    taken = take.remote(endless)
    assert ray.wait([taken], timeout=0.1)[0] == []
    endless.put("late")
    assert ray.get(taken) == "late"


def test_queue_put_waits_for_room(small):
    """A task that gives waits for one that takes."""

    @ray.remote(num_cpus=0)
    def give(queue):
        queue.put(3, timeout=30)

    small.put_nowait_batch([1, 2])
    given = give.remote(small)
    assert ray.wait([given], timeout=0.1)[0] == []
    assert small.get() == 1
    ray.get(given)
    assert small.get_nowait_batch(2) == [2, 3]


def test_queue_is_shared_by_tasks(endless):
    """Many tasks put through handles of their own."""

    @ray.remote(num_cpus=0)
    def give(queue, number):
        queue.put(number)

    ray.get([give.remote(endless, i) for i in range(20)])
    assert sorted(endless.get() for _ in range(20)) == list(range(20))


def test_queue_async_forms(small):
    """The same in an event loop, errors included."""

    async def use():
        await small.put_async(1)
        await small.put_async(2, block=False)
        with pytest.raises(Full):
            await small.put_async(3, block=False)
        with pytest.raises(Full):
            await small.put_async(3, timeout=0.05)
        found = [await small.get_async(), await small.get_async(block=False)]
        with pytest.raises(Empty):
            await small.get_async(block=False)
        with pytest.raises(Empty):
            await small.get_async(timeout=0.05)
        return found

    assert asyncio.run(use()) == [1, 2]


def test_queue_async_forms_do_not_block_the_loop(endless):
    """Two coroutines of one loop: one takes what the other gives later."""

    async def use():
        taken = asyncio.ensure_future(endless.get_async())
        await asyncio.sleep(0)
        await endless.put_async("x")
        return await asyncio.wait_for(taken, 30)

    assert asyncio.run(use()) == "x"


def test_queue_options_are_the_actors():
    """A named queue is an actor of that name."""
    made = Queue(actor_options={"num_cpus": 0, "name": "a queue"})
    made.put(1)
    assert ray.get(ray.get_actor("a queue").qsize.remote()) == 1
    made.shutdown()


def test_queue_shutdown_ends_the_actor():
    """Nothing of it is left, and other handles find a dead actor."""
    made = Queue(actor_options={"num_cpus": 0})
    made.put(1)
    actor = made.actor
    made.shutdown()
    assert made.actor is None
    with pytest.raises(ray.exceptions.RayActorError):
        ray.get(actor.qsize.remote())


def test_queue_forced_shutdown_ends_the_actor():
    """The same without a grace period."""
    made = Queue(actor_options={"num_cpus": 0})
    made.put(1)
    actor = made.actor
    made.shutdown(force=True)
    wait_for(lambda: is_dead(actor))


def is_dead(actor):
    try:
        ray.get(actor.qsize.remote())
    except ray.exceptions.RayActorError:
        return True
    return False


def test_queue_items_may_hold_references(endless):
    """A reference that goes through the queue keeps its object."""
    endless.put([ray.put("inside")])
    (ref,) = endless.get()
    assert ray.get(ref) == "inside"

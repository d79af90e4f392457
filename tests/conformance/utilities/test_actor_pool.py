"""`ray.util.ActorPool`."""

import pytest

import ray
from ray.util import ActorPool

pytestmark = pytest.mark.runtime(num_cpus=4)


@ray.remote(num_cpus=0)
class Worker:
    def double(self, x):
        return 2 * x

    def wait_at(self, gate, x):
        gate.pass_through()
        return x

    def fail(self, x):
        raise ValueError(f"no {x}")


def double(actor, x):
    return actor.double.remote(x)


def pool_of(count):
    actors = [Worker.remote() for _ in range(count)]
    return ActorPool(actors), actors


def test_actor_pool_map_gives_results_in_order():
    """`map` keeps the order of the values, whoever worked on them."""
    pool, _ = pool_of(2)
    assert list(pool.map(double, range(10))) == [2 * i for i in range(10)]


def test_actor_pool_map_unordered_gives_each_result_once():
    """`map_unordered` gives all results, in any order."""
    pool, _ = pool_of(2)
    assert sorted(pool.map_unordered(double, range(10))) == [2 * i for i in range(10)]


def test_actor_pool_map_of_nothing_is_empty():
    """No values, no results."""
    pool, _ = pool_of(1)
    assert list(pool.map(double, [])) == []


def test_actor_pool_submit_and_get_next():
    """Results come in the order of submission."""
    pool, _ = pool_of(1)
    pool.submit(double, 1)
    pool.submit(double, 2)
    assert pool.has_next()
    assert [pool.get_next(), pool.get_next()] == [2, 4]
    assert not pool.has_next()


def test_actor_pool_get_next_of_nothing_stops():
    """Nothing was submitted: StopIteration."""
    pool, _ = pool_of(1)
    with pytest.raises(StopIteration):
        pool.get_next()
    with pytest.raises(StopIteration):
        pool.get_next_unordered()


def test_actor_pool_get_next_unordered_takes_the_first_that_is_done(gate):
    """A call that hangs does not hold up the result of another."""
    pool, _ = pool_of(2)
    pool.submit(lambda actor, x: actor.wait_at.remote(gate, x), 1)
    pool.submit(double, 5)
    assert pool.get_next_unordered() == 10
    gate.open()
    assert pool.get_next_unordered() == 1


def test_actor_pool_get_next_timeout_can_be_tried_again(gate):
    """TimeoutError; the result is not lost."""
    pool, _ = pool_of(1)
    pool.submit(lambda actor, x: actor.wait_at.remote(gate, x), 7)
    with pytest.raises(TimeoutError):
        pool.get_next(timeout=0.05)
    with pytest.raises(TimeoutError):
        pool.get_next_unordered(timeout=0.05)
    assert pool.has_next()
    gate.open()
    assert pool.get_next() == 7


def test_actor_pool_ignored_timeout_drops_the_result(gate):
    """With `ignore_if_timedout` the call is forgotten, and its actor counts as free."""
    pool, _ = pool_of(1)
    pool.submit(lambda actor, x: actor.wait_at.remote(gate, x), 7)
    with pytest.raises(TimeoutError):
        pool.get_next(timeout=0.05, ignore_if_timedout=True)
    assert not pool.has_next()
    assert pool.has_free()
    gate.open()
    pool.submit(double, 1)
    assert pool.get_next() == 2


def test_actor_pool_ordered_after_unordered_is_refused(gate):
    """What came out of order leaves no next one in order."""
    pool, _ = pool_of(2)
    pool.submit(lambda actor, x: actor.wait_at.remote(gate, x), 1)
    pool.submit(double, 2)
    assert pool.get_next_unordered() == 4
    with pytest.raises(ValueError):
        pool.get_next()
    gate.open()


def test_actor_pool_has_free_follows_the_work():
    """Free before, busy during, free after."""
    pool, _ = pool_of(1)
    assert pool.has_free()
    pool.submit(double, 1)
    assert not pool.has_free()
    pool.get_next()
    assert pool.has_free()


def test_actor_pool_pop_idle_and_push():
    """An idle actor leaves the pool and comes back; one that is there already is refused."""
    pool, actors = pool_of(1)
    with pytest.raises(ValueError):
        pool.push(actors[0])
    actor = pool.pop_idle()
    assert actor == actors[0]
    assert pool.pop_idle() is None
    pool.push(actor)
    assert list(pool.map(double, [4])) == [8]


def test_actor_pool_push_of_a_busy_actor_is_refused(gate):
    """An actor that works for the pool is in it."""
    pool, actors = pool_of(1)
    pool.submit(lambda actor, x: actor.wait_at.remote(gate, x), 1)
    with pytest.raises(ValueError):
        pool.push(actors[0])
    gate.open()
    assert pool.get_next() == 1


def test_actor_pool_error_of_a_call_is_raised_and_the_pool_goes_on():
    """The actor of a failed call works again."""
    pool, _ = pool_of(1)
    pool.submit(lambda actor, x: actor.fail.remote(x), 3)
    pool.submit(double, 3)
    with pytest.raises(ValueError, match="no 3"):
        pool.get_next()
    assert pool.get_next() == 6


def test_actor_pool_map_drops_what_was_submitted_before():
    """Results of an earlier `submit` don't come out of `map`."""
    pool, _ = pool_of(2)
    pool.submit(double, 100)
    assert list(pool.map(double, [1, 2])) == [2, 4]

"""`_generator_backpressure_num_objects`: a generator runs ahead of its reader by so many items."""

import pytest

import ray
from support import wait_for

pytestmark = pytest.mark.runtime(num_cpus=2)


@ray.remote
def tallied(tally, n):
    for i in range(n):
        tally.add(i)
        yield i


def test_backpressure_default_runs_ahead_without_limit(tally):
    """Without the option a generator ends although nobody reads."""
    generator = tallied.remote(tally, 3000)
    assert ray.get(generator.completed()) is None
    assert tally.count() == 3000
    assert sum(ray.get(ref) for ref in generator) == sum(range(3000))


@pytest.mark.parametrize("window", [1, 2, 5])
def test_backpressure_window_bounds_what_is_unread(tally, window):
    """The generator stops when that many items are unread, and goes on as they are taken."""
    generator = tallied.options(_generator_backpressure_num_objects=window).remote(tally, 10)
    wait_for(lambda: tally.count() == window)
    assert ray.wait([generator.completed()], timeout=0.2)[0] == []
    assert tally.count() == window
    for taken in range(1, 4):
        next(generator)
        wait_for(lambda expected=window + taken: tally.count() == expected)
    assert [ray.get(ref) for ref in generator] == list(range(3, 10))


def test_backpressure_counts_what_is_taken_not_what_is_freed(tally):
    """Keeping the references does not hold the generator up."""
    refs = list(tallied.options(_generator_backpressure_num_objects=2).remote(tally, 20))
    assert ray.get(refs) == list(range(20))


def test_backpressure_of_an_actor_method(tally):
    """Methods take it in `@ray.method` and in `.options()`."""

    @ray.remote
    class Source:
        @ray.method(_generator_backpressure_num_objects=1)
        def items(self, tally, n):
            for i in range(n):
                tally.add(i)
                yield i

    source = Source.remote()
    generator = source.items.remote(tally, 4)
    wait_for(lambda: tally.count() == 1)
    assert [ray.get(ref) for ref in generator] == [0, 1, 2, 3]
    wider = source.items.options(_generator_backpressure_num_objects=3).remote(tally, 5)
    wait_for(lambda: tally.count() == 7)
    assert [ray.get(ref) for ref in wider] == [0, 1, 2, 3, 4]


def test_backpressure_of_an_async_actor_leaves_its_loop_free(tally):
    """A generator of an async actor that waits for its reader does not hold up other calls."""

    @ray.remote
    class Source:
        async def items(self, tally, n):
            for i in range(n):
                tally.add(i)
                yield i

        async def ping(self):
            return "pong"

    source = Source.remote()
    generator = source.items.options(_generator_backpressure_num_objects=1).remote(tally, 5)
    wait_for(lambda: tally.count() == 1)
    assert ray.get(source.ping.remote()) == "pong"
    assert [ray.get(ref) for ref in generator] == [0, 1, 2, 3, 4]


def test_backpressure_gives_the_cpu_to_the_reader(tally):
    """A generator that waits for its reader does not keep the CPU that the reader needs to go on."""

    @ray.remote(num_cpus=2)
    def double(x):
        return 2 * x

    generator = tallied.options(_generator_backpressure_num_objects=1, num_cpus=2).remote(tally, 3)
    assert [ray.get(double.remote(ref)) for ref in generator] == [0, 2, 4]


@pytest.mark.parametrize("bad", [0, "1", 1.5])
def test_backpressure_bad_value_is_refused(bad):
    """A window is a positive int, or -1 for none."""
    with pytest.raises((TypeError, ValueError), match="_generator_backpressure_num_objects"):
        tallied.options(_generator_backpressure_num_objects=bad)

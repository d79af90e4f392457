"""`ray.util.as_completed` and `ray.util.map_unordered`."""

import pytest

import ray
from ray.util import as_completed, map_unordered

pytestmark = pytest.mark.runtime(num_cpus=4)


@ray.remote
def double(x):
    return 2 * x


@ray.remote
def pass_gate(gate, x):
    gate.pass_through()
    return x


@ray.remote
def fail(x):
    raise ValueError(f"no {x}")


def test_as_completed_gives_every_value():
    """One value for each reference."""
    assert sorted(as_completed([double.remote(i) for i in range(25)])) == [2 * i for i in range(25)]


def test_as_completed_of_nothing_is_empty():
    """No references, no values."""
    assert list(as_completed([])) == []


def test_as_completed_can_give_references():
    """With `yield_obj_refs`, the references themselves, each once."""
    refs = [double.remote(i) for i in range(5)]
    found = list(as_completed(refs, yield_obj_refs=True))
    assert set(found) == set(refs)
    assert len(found) == 5


def test_as_completed_does_not_wait_for_the_slow_ones(gate):
    """What is done comes before what hangs."""
    slow = pass_gate.remote(gate, "slow")
    results = as_completed([slow, double.remote(1)], chunk_size=1)
    assert next(results) == 2
    gate.open()
    assert next(results) == "slow"
    with pytest.raises(StopIteration):
        next(results)


def test_as_completed_raises_what_a_task_raised():
    """The error of a task comes out of the iteration."""
    with pytest.raises(ValueError, match="no 1"):
        list(as_completed([fail.remote(1)]))


def test_as_completed_checks_its_arguments():
    """A chunk holds at least one."""
    with pytest.raises(ValueError):
        list(as_completed([double.remote(1)], chunk_size=0))


def test_map_unordered_gives_every_result():
    """One result for each item, also with fewer calls at a time than items."""
    assert sorted(map_unordered(double, range(30), backpressure_size=4, chunk_size=2)) == [2 * i for i in range(30)]


def test_map_unordered_without_backpressure():
    """None: any number at a time."""
    assert sorted(map_unordered(double, range(30), backpressure_size=None)) == [2 * i for i in range(30)]


def test_map_unordered_takes_items_as_they_are_needed(gate):
    """No more items are taken than may be unfinished."""
    taken = []

    def items():
        for i in range(100):
            taken.append(i)
            yield i

    results = map_unordered(double, items(), backpressure_size=5, chunk_size=1)
    next(results)
    assert len(taken) <= 11
    assert len(list(results)) == 99


def test_map_unordered_can_give_references():
    """With `yield_obj_refs`, references of the results."""
    assert sorted(ray.get(list(map_unordered(double, [1, 2, 3], yield_obj_refs=True)))) == [2, 4, 6]


def test_map_unordered_raises_what_a_task_raised():
    """The error of a call comes out of the iteration."""
    with pytest.raises(ValueError, match="no 7"):
        list(map_unordered(fail, [7]))


def test_map_unordered_checks_its_arguments():
    """Sizes are positive."""
    with pytest.raises(ValueError):
        list(map_unordered(double, [1], backpressure_size=0))
    with pytest.raises(ValueError):
        list(map_unordered(double, [1], chunk_size=0))


def test_map_unordered_takes_a_method_of_an_actor():
    """An actor's method is called like a remote function."""

    @ray.remote(num_cpus=0)
    class Doubler:
        def double(self, x):
            return 2 * x

    actor = Doubler.remote()
    assert sorted(map_unordered(actor.double, [1, 2, 3])) == [2, 4, 6]

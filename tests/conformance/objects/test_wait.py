"""`ray.wait` with all its arguments."""

import time

import pytest

import ray

pytestmark = pytest.mark.runtime(num_cpus=4)


@ray.remote
def behind(gate, value):
    gate.pass_through()
    return value


@ray.remote
def at_once(value):
    return value


def test_wait_default_returns_one_ready(gate):
    """By default `wait` returns one ready ref and the rest, each ref exactly once."""
    late, early = behind.remote(gate, "late"), at_once.remote("early")
    ready, rest = ray.wait([late, early])
    assert (ready, rest) == ([early], [late])


def test_wait_num_returns_keeps_the_order_given():
    """No more than num_returns are returned as ready; both lists keep the order of the argument."""
    refs = [at_once.remote(i) for i in range(6)]
    ray.get(refs)
    ready, rest = ray.wait(refs, num_returns=4)
    assert len(ready) == 4
    assert ready == [ref for ref in refs if ref in ready]
    assert rest == [ref for ref in refs if ref not in ready]
    assert ray.wait(refs, num_returns=6) == (refs, [])


def test_wait_timeout_returns_what_there_is(gate):
    """After the timeout, `wait` returns fewer than asked for, without an error."""
    late, early = behind.remote(gate, 1), at_once.remote(2)
    ray.get(early)
    start = time.monotonic()
    ready, rest = ray.wait([late, early], num_returns=2, timeout=0.2)
    assert (ready, rest) == ([early], [late])
    assert 0.15 < time.monotonic() - start < 5


def test_wait_timeout_zero_polls(gate):
    """`timeout=0` looks and returns."""
    late = behind.remote(gate, 1)
    assert ray.wait([late], timeout=0) == ([], [late])
    here = ray.put(1)
    assert ray.wait([here], timeout=0) == ([here], [])


def test_wait_blocks_until_enough_are_ready(gate):
    """Without a timeout `wait` blocks for num_returns refs."""
    refs = [behind.remote(gate, i) for i in range(3)]
    assert ray.wait(refs, num_returns=3, timeout=0.1) == ([], refs)
    gate.open()
    assert ray.wait(refs, num_returns=3) == (refs, [])


def test_wait_counts_failed_tasks_as_ready():
    """A failed task is ready; reading it raises."""

    @ray.remote
    def fail():
        raise ValueError("failed")

    (ready,), rest = ray.wait([fail.remote()])
    assert rest == []
    with pytest.raises(ValueError):
        ray.get(ready)


def test_wait_fetch_local_false_works():
    """`fetch_local=False` tells readiness as well."""
    refs = [at_once.remote(1), ray.put(2)]
    assert ray.wait(refs, num_returns=2, fetch_local=False) == (refs, [])


def test_wait_of_nothing_returns_nothing():
    """An empty list gives two empty lists."""
    assert ray.wait([]) == ([], [])


@pytest.mark.parametrize("wrong", [5, None, (), {}, [1], [None]], ids=repr)
def test_wait_of_something_else_raises_type_error(wrong):
    """Only a list of refs can be waited for."""
    with pytest.raises(TypeError):
        ray.wait(wrong)


def test_wait_of_a_single_ref_or_tuple_raises_type_error():
    """A bare ref, a tuple or a set of refs is refused."""
    ref = ray.put(1)
    for wrong in (ref, (ref,), {ref}):
        with pytest.raises(TypeError):
            ray.wait(wrong)


def test_wait_wrong_numbers_raise_value_error():
    """Duplicates, zero, too many, and a negative timeout are ValueErrors."""
    a, b = ray.put(1), ray.put(2)
    for refs, options in [([a, a], {}), ([a], {"num_returns": 0}), ([a], {"num_returns": -1}), ([a, b], {"num_returns": 3}), ([a], {"timeout": -1})]:
        with pytest.raises(ValueError):
            ray.wait(refs, **options)


def test_wait_arguments_are_keywords():
    """Everything but the list is given by name."""
    with pytest.raises(TypeError):
        ray.wait([ray.put(1)], 1)


def test_wait_as_completed_loop_sees_each_once():
    """The usual loop that takes one ready ref at a time sees every result once."""
    rest, seen = [at_once.remote(i) for i in range(100)], []
    while rest:
        ready, rest = ray.wait(rest)
        seen += ray.get(ready)
    assert sorted(seen) == list(range(100))


def test_wait_inside_a_task_gives_its_cpu_back():
    """Tasks that wait for tasks don't starve them."""

    @ray.remote
    def outer(i):
        refs = [at_once.remote(i), at_once.remote(i + 1)]
        ready, rest = ray.wait(refs, num_returns=2)
        return len(ready), len(rest)

    assert ray.get([outer.remote(i) for i in range(8)]) == [(2, 0)] * 8

"""Calling remote functions: what goes in and what comes out."""

import os

import pytest

import ray
from support import wait_for

pytestmark = pytest.mark.runtime(num_cpus=4)


def test_call_positional_and_keyword_arguments_arrive():
    """Arguments given by position, by name and by default reach the function as in a plain call."""

    @ray.remote
    def f(a, b, c=3, *, d=4):
        return a, b, c, d

    assert ray.get([f.remote(1, 2), f.remote(1, b=2, d=9), f.remote(b=1, a=2, c=0)]) == [(1, 2, 3, 4), (1, 2, 3, 9), (2, 1, 0, 4)]


def test_call_variable_arguments_arrive():
    """`*args` and `**kwargs` collect what is left over."""

    @ray.remote
    def f(first, *args, **kwargs):
        return first, args, kwargs

    assert ray.get(f.remote(1)) == (1, (), {})
    assert ray.get(f.remote(1, 2, 3, x=4, y=5)) == (1, (2, 3), {"x": 4, "y": 5})


def test_call_wrong_arguments_raise_at_the_call():
    """A call that does not match the signature raises TypeError in the caller, before anything is sent."""

    @ray.remote
    def f(a, b=2):
        return a, b

    for args, kwargs in [((), {}), ((1, 2, 3), {}), ((1,), {"a": 1}), ((1,), {"nope": 1})]:
        with pytest.raises(TypeError):
            f.remote(*args, **kwargs)


def test_call_without_remote_raises_type_error():
    """A remote function can't be called like a plain one, and the message says how to call it."""

    @ray.remote
    def f():
        return 1

    with pytest.raises(TypeError, match=r"\.remote\("):
        f()


def test_call_runs_in_another_process():
    """The body runs outside the driver."""

    @ray.remote
    def f():
        return os.getpid()

    assert ray.get(f.remote()) != os.getpid()


def test_call_lambda_works():
    """A lambda can be made remote by calling `ray.remote`."""
    assert ray.get(ray.remote(lambda x: x + 1).remote(41)) == 42


def test_call_closure_sees_captured_value():
    """Captured variables travel with the function."""
    word = "captured"

    @ray.remote
    def f(times):
        return [word] * times

    assert ray.get(f.remote(2)) == ["captured", "captured"]


def test_call_captured_ref_is_usable():
    """A ref captured by a closure can be read inside the task."""
    ref = ray.put(list(range(5)))

    @ray.remote
    def f():
        return sum(ray.get(ref))

    assert ray.get(f.remote()) == 10


def test_call_module_state_changed_by_task_stays_there():
    """A task that changes a captured object or its argument does not change the driver's."""
    box = [1]

    @ray.remote
    def f(other):
        box.append(2)
        other.append(3)
        return box, other

    mine = [0]
    assert ray.get(f.remote(mine)) == ([1, 2], [0, 3])
    assert (box, mine) == ([1], [0])


def test_call_recursive_function_returns():
    """A remote function may call itself."""

    @ray.remote
    def factorial(n):
        return 1 if n == 0 else n * ray.get(factorial.remote(n - 1))

    assert ray.get(factorial.remote(6)) == 720


def test_call_from_tasks_returns():
    """Tasks may start tasks that start tasks."""

    @ray.remote
    def leaf(x):
        return x * 10

    @ray.remote
    def middle(x):
        return sum(ray.get([leaf.remote(x), leaf.remote(x + 1)]))

    @ray.remote
    def root():
        return ray.get([middle.remote(1), middle.remote(3)])

    assert ray.get(root.remote()) == [30, 70]


def test_call_remote_function_passed_as_argument_is_callable():
    """A remote function is a value: a task can receive it and call it."""

    @ray.remote
    def double(x):
        return 2 * x

    @ray.remote
    def apply(function, x):
        return ray.get(function.remote(x))

    assert ray.get(apply.remote(double, 4)) == 8


def test_call_ref_returned_by_task_is_readable():
    """A task may return the ref of a task it started, and the driver reads it after the task has ended."""

    @ray.remote
    def inner():
        return "inner value"

    @ray.remote
    def outer():
        return [inner.remote()]

    (ref,) = ray.get(outer.remote())
    assert isinstance(ref, ray.ObjectRef)
    assert ray.get(ref) == "inner value"


def test_call_ref_as_argument_is_resolved():
    """A ref given as an argument of its own, by position or name, arrives as its value."""

    @ray.remote
    def f(a, *, b):
        return a, b

    assert ray.get(f.remote(ray.put(1), b=ray.put([2]))) == (1, [2])


def test_call_ref_inside_argument_is_kept():
    """A ref inside a container arrives as a ref."""

    @ray.remote
    def f(items, table):
        return [type(item).__name__ for item in items], ray.get(items), ray.get(table["key"]["deep"])

    names, values, deep = ray.get(f.remote([ray.put(1), ray.put(2)], {"key": {"deep": ray.put(3)}}))
    assert (names, values, deep) == (["ObjectRef", "ObjectRef"], [1, 2], 3)


def test_call_same_ref_twice_arrives_twice():
    """One ref may fill several arguments."""

    @ray.remote
    def f(a, b, c):
        return a + b + c

    ref = ray.put(5)
    assert ray.get(f.remote(ref, ref, c=ref)) == 15


def test_call_waits_for_unfinished_arguments():
    """A task whose argument is still being made starts when it is there."""

    @ray.remote
    def step(x):
        return x + 1

    ref = step.remote(0)
    for _ in range(30):
        ref = step.remote(ref)
    assert ray.get(ref) == 31


def test_call_failed_argument_fails_the_call(tally):
    """A task whose argument failed does not run and raises the argument's error."""

    @ray.remote
    def fail():
        raise LookupError("no such thing")

    @ray.remote
    def use(_):
        tally.add()

    with pytest.raises(LookupError, match="no such thing"):
        ray.get(use.remote(fail.remote()))
    assert tally.count() == 0


def test_num_returns_several_gives_a_list_of_refs():
    """`num_returns=3` gives three refs that can be read one by one."""

    @ray.remote(num_returns=3)
    def f():
        return 1, "two", [3]

    refs = f.remote()
    assert isinstance(refs, list)
    assert ray.get(refs[1]) == "two"
    assert ray.get(refs) == [1, "two", [3]]


def test_num_returns_zero_gives_none(tally):
    """`num_returns=0` gives no ref, and the task still runs."""

    @ray.remote(num_returns=0)
    def f():
        tally.add()

    assert f.remote() is None
    wait_for(lambda: tally.count() == 1)


def test_num_returns_one_keeps_a_tuple_whole():
    """By default a tuple is one value."""

    @ray.remote
    def f():
        return 1, 2

    assert ray.get(f.remote()) == (1, 2)


@pytest.mark.parametrize("value", [(1,), (1, 2, 3), []])
def test_num_returns_wrong_length_raises_value_error(value):
    """A task that returns another number of values than it promised fails with ValueError in each ref."""

    @ray.remote(num_returns=2)
    def f():
        return value

    for ref in f.remote():
        with pytest.raises(ValueError):
            ray.get(ref)


def test_num_returns_not_iterable_raises():
    """A task that promised two values and returns one plain value fails in each ref."""

    @ray.remote(num_returns=2)
    def f():
        return 7

    for ref in f.remote():
        with pytest.raises((TypeError, ValueError)):
            ray.get(ref)


def test_num_returns_error_reaches_every_ref():
    """When the body raises, each of its refs raises."""

    @ray.remote(num_returns=2)
    def f():
        raise KeyError("both")

    for ref in f.remote():
        with pytest.raises(KeyError):
            ray.get(ref)


def test_call_large_argument_and_result_arrive_whole():
    """Megabytes go in and out unchanged."""

    @ray.remote
    def f(data):
        return data[::-1]

    data = bytes(range(256)) * 16384
    assert ray.get(f.remote(data)) == data[::-1]


def test_call_many_tasks_each_result_in_its_place():
    """Results belong to their calls, whatever order they finish in."""

    @ray.remote
    def f(i):
        return i * i

    assert ray.get([f.remote(i) for i in range(500)]) == [i * i for i in range(500)]


def test_call_from_threads_returns():
    """Any thread of the driver may call and get."""
    from concurrent.futures import ThreadPoolExecutor

    @ray.remote
    def f(i):
        return -i

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda i: ray.get(f.remote(i)), range(40))) == [-i for i in range(40)]


def test_call_function_redefined_runs_the_new_body():
    """Two functions of the same name are two functions."""

    def make(value):
        @ray.remote
        def f():
            return value

        return f

    first, second = make(1), make(2)
    assert ray.get([first.remote(), second.remote(), first.remote()]) == [1, 2, 1]

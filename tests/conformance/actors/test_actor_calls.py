"""Creating actors and calling their methods."""

import os

import pytest

import ray

pytestmark = pytest.mark.runtime(num_cpus=4)


class Counter:
    """A counter, made remote in each test as needed."""

    def __init__(self, start=0):
        self.count = start

    def add(self, by=1):
        self.count += by
        return self.count

    def pid(self):
        return os.getpid()


def test_actor_keeps_state_between_calls():
    """Calls see what earlier calls left behind."""
    actor = ray.remote(Counter).remote(10)
    assert ray.get([actor.add.remote() for _ in range(5)]) == [11, 12, 13, 14, 15]


def test_actor_runs_calls_of_one_caller_in_order():
    """Thousands of calls of one caller run in the order they were made."""

    @ray.remote
    class Log:
        def __init__(self):
            self.entries = []

        def append(self, entry):
            self.entries.append(entry)

        def read(self):
            return self.entries

    log = Log.remote()
    for i in range(2000):
        log.append.remote(i)
    assert ray.get(log.read.remote()) == list(range(2000))


def test_actor_order_holds_while_an_argument_is_unfinished(gate):
    """A call that waits for its argument holds back the calls behind it."""

    @ray.remote
    def late():
        gate.pass_through()
        return "late"

    @ray.remote
    class Log:
        def __init__(self):
            self.entries = []

        def append(self, entry):
            self.entries.append(entry)
            return list(self.entries)

    log = Log.remote()
    first, second = log.append.remote(late.remote()), log.append.remote("early")
    done, _ = ray.wait([second], timeout=0.3)
    assert not done
    gate.open()
    assert ray.get([first, second]) == [["late"], ["late", "early"]]


def test_actors_live_in_processes_of_their_own():
    """Each actor has its own process and its own state."""
    cls = ray.remote(Counter)
    a, b = cls.remote(), cls.remote(100)
    assert len({os.getpid(), *ray.get([a.pid.remote(), b.pid.remote()])}) == 3
    assert ray.get([a.add.remote(), b.add.remote()]) == [1, 101]


def test_actor_class_options_give_a_changed_copy():
    """`.options()` on the class changes that creation only."""
    cls = ray.remote(num_cpus=1)(Counter)
    assert ray.get(cls.options(num_cpus=0.5).remote(1).add.remote()) == 2
    assert ray.get(cls.remote(1).add.remote()) == 2


def test_actor_constructor_arguments_are_checked_at_once():
    """Wrong constructor arguments raise TypeError in the caller."""
    with pytest.raises(TypeError):
        ray.remote(Counter).remote(1, 2, 3)


def test_actor_method_arguments_are_checked_at_once():
    """Wrong method arguments raise TypeError in the caller."""
    actor = ray.remote(Counter).remote()
    with pytest.raises(TypeError):
        actor.add.remote(1, 2)
    with pytest.raises(TypeError):
        actor.add.remote(nope=1)


def test_actor_direct_calls_raise_type_error():
    """Neither the class nor a method can be called without `.remote`."""
    cls = ray.remote(Counter)
    with pytest.raises(TypeError, match="remote"):
        cls()
    with pytest.raises(TypeError, match="remote"):
        cls.remote().add()


def test_actor_unknown_name_raises_attribute_error():
    """A handle knows the methods of its class and nothing else."""
    actor = ray.remote(Counter).remote()
    with pytest.raises(AttributeError, match="nope"):
        _ = actor.nope
    with pytest.raises(AttributeError):
        _ = actor.count


def test_actor_constructor_takes_refs():
    """Refs among the constructor's arguments are resolved."""
    assert ray.get(ray.remote(Counter).remote(ray.put(5)).add.remote(by=ray.put(2))) == 7


def test_actor_handle_passed_to_task_works():
    """A task can call an actor whose handle it was given."""

    @ray.remote
    def add_three(actor):
        return [ray.get(actor.add.remote()) for _ in range(3)]

    actor = ray.remote(Counter).remote()
    assert ray.get(add_three.remote(actor)) == [1, 2, 3]
    assert ray.get(actor.add.remote()) == 4


def test_actor_handle_passed_to_actor_and_kept_works():
    """An actor can keep another's handle as long as it likes."""

    @ray.remote
    class Front:
        def __init__(self, back):
            self.back = back

        def add(self):
            return ray.get(self.back.add.remote())

    back = ray.remote(Counter).remote()
    front = Front.remote(back)
    del back
    assert ray.get([front.add.remote() for _ in range(3)]) == [1, 2, 3]


def test_actor_handle_in_containers_and_objects_works():
    """A handle goes through put and get inside any container."""
    actor = ray.remote(Counter).remote()
    stored = ray.get(ray.put({"deep": [actor]}))["deep"][0]
    assert stored == actor
    assert hash(stored) == hash(actor)
    assert ray.get(stored.add.remote()) == 1


def test_actor_handle_captured_by_closure_works():
    """A handle captured by a remote function works there."""
    actor = ray.remote(Counter).remote()

    @ray.remote
    def add():
        return ray.get(actor.add.remote())

    assert ray.get([add.remote(), add.remote()]) in ([1, 2], [2, 1])


def test_actor_created_in_a_task_outlives_it_while_referenced():
    """An actor made by a task lives as long as somebody holds its handle."""

    @ray.remote
    def make():
        return ray.remote(Counter).remote(41)

    assert ray.get(ray.get(make.remote()).add.remote()) == 42


def test_actor_may_create_actors_and_tasks():
    """An actor is a full caller."""

    @ray.remote
    def double(x):
        return x * 2

    @ray.remote
    class Parent:
        def __init__(self):
            self.child = ray.remote(Counter).remote(4)

        def work(self):
            return ray.get(double.remote(self.child.add.remote()))

    assert ray.get(Parent.remote().work.remote()) == 10


def test_actor_exception_leaves_it_alive():
    """A method that raises fails its call; state and actor stay."""

    @ray.remote
    class Fragile:
        def __init__(self):
            self.calls = 0

        def fail(self):
            self.calls += 1
            raise ValueError("method failed")

        def read(self):
            return self.calls

    actor = Fragile.remote()
    with pytest.raises(ValueError, match="method failed"):
        ray.get(actor.fail.remote())
    assert ray.get(actor.read.remote()) == 1


def test_method_num_returns_by_decorator_and_by_option():
    """`@ray.method(num_returns=...)` and `.options(num_returns=...)` split what a method returns."""

    @ray.remote
    class Splitter:
        @ray.method(num_returns=2)
        def pair(self):
            return 1, 2

        def triple(self):
            return 1, 2, 3

    actor = Splitter.remote()
    assert ray.get(actor.pair.remote()) == [1, 2]
    assert ray.get(actor.pair.options(num_returns=1).remote()) == (1, 2)
    assert ray.get(actor.triple.options(num_returns=3).remote()) == [1, 2, 3]
    assert ray.get(actor.triple.remote()) == (1, 2, 3)


def test_method_num_returns_zero_gives_none(tally):
    """A method that promises nothing returns no ref and runs nevertheless."""

    @ray.remote
    class Quiet:
        @ray.method(num_returns=0)
        def note(self):
            tally.add()

        def flush(self):
            return tally.count()

    actor = Quiet.remote()
    assert actor.note.remote() is None
    assert ray.get(actor.flush.remote()) == 1


def test_method_bad_option_is_refused():
    """Wrong options of a method raise in the caller."""
    actor = ray.remote(Counter).remote()
    with pytest.raises(ValueError):
        actor.add.options(num_returns=-1).remote()
    with pytest.raises(TypeError):
        actor.add.options(num_cpus=1).remote()
    with pytest.raises((AssertionError, TypeError, ValueError)):
        ray.method(nope=1)(lambda self: None)


def test_method_bound_to_a_variable_is_callable():
    """A method taken from a handle keeps the actor alive and can be called later."""
    add = ray.remote(Counter).remote().add
    assert ray.get([add.remote(), add.remote()]) == [1, 2]


def test_actor_ready_can_be_awaited():
    """`__ray_ready__` is a call that every actor answers."""
    assert ray.get(ray.remote(Counter).remote().__ray_ready__.remote())


def test_actor_runs_a_given_function_on_itself():
    """`__ray_call__` runs a function with the instance as its first argument."""
    actor = ray.remote(Counter).remote(5)
    assert ray.get(actor.__ray_call__.remote(lambda self, by: self.count + by, 3)) == 8

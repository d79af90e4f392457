"""Options of methods and of calls: retries, returns, names, and what is refused."""

import os

import pytest

import ray
from ray.exceptions import PendingCallsLimitExceeded, RayActorError, RayTaskError

pytestmark = [pytest.mark.runtime(num_cpus=4), pytest.mark.limit(20)]


@ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=3)
class Flaky:
    def __init__(self):
        self.runs = 0

    def count(self):
        found, self.runs = self.runs, 0
        return found

    def plain(self):
        self.runs += 1
        raise KeyError(self.runs)

    @ray.method(retry_exceptions=True)
    def retried(self):
        self.runs += 1
        raise KeyError(self.runs)

    @ray.method(retry_exceptions=[ValueError])
    def listed(self, error):
        self.runs += 1
        raise error("again")

    @ray.method(retry_exceptions=True, max_task_retries=1)
    def once_more(self):
        self.runs += 1
        raise KeyError(self.runs)

    @ray.method(retry_exceptions=True, max_task_retries=0)
    def never_again(self):
        self.runs += 1
        raise KeyError(self.runs)

    @ray.method(retry_exceptions=True, max_task_retries=-1)
    def until_it_works(self):
        self.runs += 1
        if self.runs < 7:
            raise KeyError(self.runs)
        return self.runs

    @ray.method(max_task_retries=0)
    def die(self):
        os._exit(1)

    @ray.method(num_returns=3)
    def three(self):
        return 1, 2, 3

    def name(self):
        return ray.get_runtime_context().get_task_name()

    def attempt(self, tally):
        if tally.add() < 2:
            os._exit(1)
        return tally.count()


@pytest.fixture(scope="module")
def flaky(_module_runtime):
    """Made with the first test's runtime."""
    made = {}

    def get():
        if "actor" not in made:
            made["actor"] = Flaky.remote()
        ray.get(made["actor"].count.remote())
        return made["actor"]

    return get


def runs_of(actor, ref):
    with pytest.raises(RayTaskError):
        ray.get(ref)
    return ray.get(actor.count.remote())


def test_exception_is_not_retried_by_default(flaky):
    """`max_task_retries` is about the actor's death; what a method raises is its result."""
    actor = flaky()
    assert runs_of(actor, actor.plain.remote()) == 1


def test_retry_exceptions_uses_the_actors_retries(flaky):
    """`retry_exceptions=True` repeats the call as often as `max_task_retries` allows."""
    actor = flaky()
    assert runs_of(actor, actor.retried.remote()) == 4


def test_retry_exceptions_of_a_list_retries_those_only(flaky):
    """Other exceptions are results at once."""
    actor = flaky()
    assert runs_of(actor, actor.listed.remote(ValueError)) == 4
    assert runs_of(actor, actor.listed.remote(UnicodeError)) == 4
    assert runs_of(actor, actor.listed.remote(KeyError)) == 1


def test_method_retries_override_the_actors(flaky):
    """`max_task_retries` of a method counts instead of the actor's."""
    actor = flaky()
    assert runs_of(actor, actor.once_more.remote()) == 2
    assert runs_of(actor, actor.never_again.remote()) == 1


def test_method_retries_without_limit(flaky):
    """-1: until it works."""
    actor = flaky()
    assert ray.get(actor.until_it_works.remote()) == 7


def test_call_options_override_the_methods(flaky):
    """`.options()` of one call."""
    actor = flaky()
    assert runs_of(actor, actor.plain.options(retry_exceptions=True).remote()) == 4
    assert runs_of(actor, actor.plain.options(retry_exceptions=[KeyError], max_task_retries=2).remote()) == 3
    assert runs_of(actor, actor.retried.options(retry_exceptions=False).remote()) == 1
    assert runs_of(actor, actor.plain.remote()) == 1


def test_retries_keep_the_order_of_later_calls(flaky):
    """A call that is repeated on a living actor is done before its result is; later calls are not lost."""
    actor = flaky()
    first = actor.until_it_works.remote()
    later = [actor.three.remote()[0] for _ in range(5)]
    assert ray.get(first) == 7
    assert ray.get(later) == [1] * 5


def test_method_without_retries_fails_with_its_actor(flaky):
    """`max_task_retries=0` on a method of an actor that retries others."""
    actor = flaky()
    with pytest.raises(RayActorError):
        ray.get(actor.die.remote())


def test_call_is_repeated_after_the_actors_death(tally):
    """`max_task_retries` repeats a call whose actor died under it."""
    actor = Flaky.remote()
    assert ray.get(actor.attempt.remote(tally)) == 2


def test_num_returns_of_a_method_and_of_a_call():
    """The decorator's number, or that of one call."""
    actor = Flaky.remote()
    assert ray.get(actor.three.remote()) == [1, 2, 3]
    assert ray.get(actor.three.options(num_returns=1).remote()) == (1, 2, 3)
    with pytest.raises(ValueError):
        ray.get(actor.three.options(num_returns=2).remote())


def test_name_of_a_call_is_shown():
    """`name` in `.options()` is the task's name."""
    actor = Flaky.remote()
    assert ray.get(actor.name.options(name="called otherwise").remote()) == "called otherwise"
    assert ray.get(actor.name.remote()) == "Flaky.name"


@pytest.mark.parametrize("options", [{"retry_exceptions": 3}, {"num_returns": -1}, {"num_returns": "some"}, {"nonsense": 1}])
def test_method_decorator_refuses_bad_options(options):
    """Mistakes are found when the class is written, or when it becomes an actor."""
    with pytest.raises((AssertionError, ValueError, TypeError)):
        ray.remote(type("A", (), {"f": ray.method(**options)(lambda self: 1)})).remote().f.remote()


def test_options_of_a_call_are_equal_for_equal_options():
    """`.options()` may stand in a loop: it changes nothing but the call."""
    actor = Flaky.remote()
    for _ in range(3):
        assert len(actor.three.options(num_returns=3).remote()) == 3
    assert len(actor.three.remote()) == 3


def test_pending_calls_limit_counts_unfinished_calls(gate):
    """With `max_pending_calls=2` a third unfinished call is refused; finished ones make room."""

    @ray.remote(num_cpus=0, max_pending_calls=2)
    class Narrow:
        def hold(self, gate):
            gate.pass_through()

    actor = Narrow.remote()
    refs = [actor.hold.remote(gate), actor.hold.remote(gate)]
    with pytest.raises(PendingCallsLimitExceeded):
        actor.hold.remote(gate)
    gate.open()
    ray.get(refs)
    ray.get(actor.hold.remote(gate))


def test_pending_calls_limit_holds_for_each_handle_in_its_process(gate):
    """A copy of the handle is no way around it."""

    @ray.remote(num_cpus=0, max_pending_calls=1)
    class Narrow:
        def hold(self, gate):
            gate.pass_through()

    actor = Narrow.remote()
    ref = actor.hold.remote(gate)
    with pytest.raises(PendingCallsLimitExceeded):
        ray.get(ray.put(actor)).hold.remote(gate)
    gate.open()
    ray.get(ref)

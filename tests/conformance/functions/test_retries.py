"""Retries of tasks after exceptions and after the death of their worker."""

import os

import pytest

import ray
from ray.exceptions import WorkerCrashedError

pytestmark = pytest.mark.runtime(num_cpus=2)


def failing(tally, error, times):
    """A function that raises `error` in its first `times` attempts."""

    def attempt():
        count = tally.add()
        if count <= times:
            raise error(f"attempt {count}")
        return count

    return attempt


def test_retry_user_exception_by_default_is_not_retried(tally):
    """An exception of the user's code ends the task at once, whatever max_retries says."""
    f = ray.remote(max_retries=3)(failing(tally, ValueError, 1))
    with pytest.raises(ValueError, match="attempt 1"):
        ray.get(f.remote())
    assert tally.count() == 1


def test_retry_exceptions_true_retries_until_success(tally):
    """`retry_exceptions=True` repeats the task after any exception."""
    f = ray.remote(max_retries=3, retry_exceptions=True)(failing(tally, ValueError, 2))
    assert ray.get(f.remote()) == 3


def test_retry_exceptions_true_gives_up_after_max_retries(tally):
    """`max_retries=2` means three attempts, and the last error is the one raised."""
    f = ray.remote(max_retries=2, retry_exceptions=True)(failing(tally, ValueError, 100))
    with pytest.raises(ValueError, match="attempt 3"):
        ray.get(f.remote())
    assert tally.count() == 3


def test_retry_exceptions_list_retries_matching_types(tally):
    """A listed type, or a subclass of one, is retried."""
    f = ray.remote(max_retries=1, retry_exceptions=[OSError])(failing(tally, FileNotFoundError, 1))
    assert ray.get(f.remote()) == 2


def test_retry_exceptions_list_leaves_other_types_alone(tally):
    """A type that is not listed ends the task at once."""
    f = ray.remote(max_retries=3, retry_exceptions=[OSError])(failing(tally, ValueError, 1))
    with pytest.raises(ValueError):
        ray.get(f.remote())
    assert tally.count() == 1


def test_retry_exceptions_without_retries_left_has_no_effect(tally):
    """`max_retries=0` beats `retry_exceptions`."""
    f = ray.remote(max_retries=0, retry_exceptions=True)(failing(tally, ValueError, 1))
    with pytest.raises(ValueError):
        ray.get(f.remote())
    assert tally.count() == 1


def dying(tally, times):
    """A function whose first `times` attempts take their process with them."""

    def attempt():
        count = tally.add()
        if count <= times:
            os._exit(7)
        return count

    return attempt


def test_retry_after_worker_death_is_the_default(tally):
    """A task whose worker dies is run again without asking for it."""
    assert ray.get(ray.remote(dying(tally, 1)).remote()) == 2


def test_retry_after_worker_death_can_be_turned_off(tally):
    """`max_retries=0`: the first death is final."""
    with pytest.raises(WorkerCrashedError):
        ray.get(ray.remote(max_retries=0)(dying(tally, 1)).remote())
    assert tally.count() == 1


def test_retry_after_worker_death_stops_at_the_limit(tally):
    """`max_retries=1` means two attempts."""
    with pytest.raises(WorkerCrashedError):
        ray.get(ray.remote(max_retries=1)(dying(tally, 100)).remote())
    assert tally.count() == 2


def test_retry_after_worker_death_without_limit_goes_on(tally):
    """`max_retries=-1` outlasts more deaths than the default allows."""
    assert ray.get(ray.remote(max_retries=-1)(dying(tally, 5)).remote()) == 6


def test_retry_reruns_with_the_same_arguments(tally):
    """A repeated attempt sees its arguments as the first one did, refs included."""

    @ray.remote
    def f(numbers, big):
        numbers.append(len(big))
        if tally.add() == 1:
            os._exit(1)
        return numbers

    assert ray.get(f.remote([1, 2], ray.put(b"x" * 300_000))) == [1, 2, 300_000]


def test_retry_dependents_wait_for_the_retried_task(tally):
    """Whoever waits for the result does not notice the retry."""
    first = ray.remote(dying(tally, 1)).remote()

    @ray.remote
    def after(count):
        return f"after attempt {count}"

    assert ray.get(after.remote(first)) == "after attempt 2"

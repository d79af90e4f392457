"""`ray.cancel` of tasks: in line, waiting, running, finished; by force; what the caller sees and what the task sees."""

import asyncio
import os
import time

import pytest

import ray
from ray.exceptions import RayError, TaskCancelledError, WorkerCrashedError
from support import is_alive, wait_for
from support.cancelling import assert_cancelled, doze

pytestmark = [pytest.mark.runtime(num_cpus=2, resources={"one": 1}), pytest.mark.limit(30)]


@ray.remote
def sleeper(tally, word="x"):
    doze(tally, word)


@ray.remote
def identity(value):
    return value


def started(tally, word="x"):
    wait_for(lambda: word in tally.words())


def test_cancel_running_task_raises_keyboard_interrupt_in_it(tally):
    """The code of a running task sees KeyboardInterrupt, and its caller TaskCancelledError."""
    ref = sleeper.remote(tally)
    started(tally)
    assert ray.cancel(ref) is None
    assert_cancelled(ref)
    wait_for(lambda: "x:KeyboardInterrupt" in tally.words())


def test_cancel_interrupts_a_sleep(tally):
    """A task that sleeps in a system call is woken."""

    @ray.remote
    def sleep_long():
        tally.add("x")
        time.sleep(3600)

    ref = sleep_long.remote()
    started(tally)
    ray.cancel(ref)
    assert_cancelled(ref)


def test_cancel_interrupts_a_get(tally):
    """A task that waits in `ray.get` is woken, and lends its CPU no longer than it waits."""

    @ray.remote
    def wait_for_child(box):
        tally.add("outer")
        return ray.get(box[0])

    inner = sleeper.options(num_cpus=0).remote(tally, "inner")
    ref = wait_for_child.remote([inner])
    started(tally, "outer")
    started(tally, "inner")
    ray.cancel(ref, recursive=False)
    assert_cancelled(ref)
    assert ray.get([identity.remote(i) for i in range(4)]) == [0, 1, 2, 3]
    ray.cancel(inner)
    assert_cancelled(inner)


def test_cancel_queued_task_never_runs(tally):
    """A task that waits for resources is gone at once, and never starts."""
    holder = sleeper.options(resources={"one": 1}).remote(tally, "holder")
    started(tally, "holder")
    ref = sleeper.options(resources={"one": 1}).remote(tally, "queued")
    ray.cancel(ref)
    assert_cancelled(ref)
    ray.cancel(holder)
    assert_cancelled(holder)
    assert ray.get(identity.options(resources={"one": 1}).remote(5)) == 5
    assert "queued" not in tally.words()


def test_cancel_task_that_waits_for_its_arguments(tally):
    """It ends at once, and its argument goes on."""

    @ray.remote
    def wait_at(gate_word):
        tally.add(gate_word)
        wait_for(lambda: "go" in tally.words(), timeout_s=60)
        return 7

    argument = wait_at.remote("argument")
    ref = identity.remote(argument)
    ray.cancel(ref)
    assert_cancelled(ref)
    tally.add("go")
    assert ray.get(argument) == 7


def test_cancel_many_queued_tasks(tally):
    """Each of many queued tasks ends once, whatever the order of cancelling, and the workers are free afterwards."""
    holders = [sleeper.remote(tally, f"holder{i}") for i in range(2)]
    for i in range(2):
        started(tally, f"holder{i}")
    refs = [identity.remote(i) for i in range(60)]
    for ref in refs[::2] + refs[1::2][::-1]:
        ray.cancel(ref)
    for ref in refs:
        assert_cancelled(ref)
    for holder in holders:
        ray.cancel(holder)
        assert_cancelled(holder)
    assert ray.get([identity.remote(i) for i in range(10)]) == list(range(10))


def test_cancel_finished_task_changes_nothing():
    """What has ended keeps its value, with force or without."""
    ref = identity.remote(3)
    assert ray.get(ref) == 3
    ray.cancel(ref)
    ray.cancel(ref, force=True)
    assert ray.get(ref) == 3


def test_cancel_twice_is_as_once(tally):
    """Cancelling again, also after the end, is no error."""
    ref = sleeper.remote(tally)
    started(tally)
    ray.cancel(ref)
    ray.cancel(ref)
    assert_cancelled(ref)
    ray.cancel(ref)
    assert_cancelled(ref)


def test_cancelled_task_is_never_retried(tally):
    """Neither `max_retries` nor `retry_exceptions` runs a cancelled task again."""
    ref = sleeper.options(max_retries=5, retry_exceptions=True).remote(tally)
    started(tally)
    ray.cancel(ref)
    assert_cancelled(ref)
    assert ray.get(identity.remote(1)) == 1
    assert tally.words().count("x") == 1


def test_cancelled_task_that_raises_another_error_gives_that(tally):
    """The user's own error counts, and is not retried."""

    @ray.remote(max_retries=5, retry_exceptions=True)
    def clean_up():
        try:
            doze(tally, "x")
        except KeyboardInterrupt:
            raise ValueError("while cleaning up") from None

    ref = clean_up.remote()
    started(tally)
    ray.cancel(ref)
    with pytest.raises(ValueError, match="while cleaning up"):
        ray.get(ref, timeout=15)
    assert tally.words().count("x") == 1


def test_cancelled_task_that_returns_gives_its_value(tally):
    """A task that catches the interruption and returns has a result."""

    @ray.remote
    def finish():
        try:
            doze(tally, "x")
        except KeyboardInterrupt:
            return "finished"

    ref = finish.remote()
    started(tally)
    ray.cancel(ref)
    assert ray.get(ref, timeout=15) == "finished"


def test_cancel_runs_finally_blocks(tally):
    """What a task has to clean up is cleaned up."""

    @ray.remote
    def with_finally():
        try:
            doze(tally, "x")
        finally:
            tally.add("cleaned")

    ref = with_finally.remote()
    started(tally)
    ray.cancel(ref)
    assert_cancelled(ref)
    wait_for(lambda: "cleaned" in tally.words())


def test_cancel_all_returns_of_a_task(tally):
    """A task with several results is cancelled through any of them."""

    @ray.remote(num_returns=2)
    def two():
        doze(tally, "x")

    first, second = two.remote()
    started(tally)
    ray.cancel(second)
    assert_cancelled(first)
    assert_cancelled(second)


def test_cancel_fails_what_depends_on_it(tally):
    """A task that takes a cancelled one's result fails with the cancellation, without running."""
    ref = sleeper.remote(tally)
    dependent = identity.remote(ref)
    started(tally)
    ray.cancel(ref)
    with pytest.raises(RayError):
        ray.get(dependent, timeout=15)
    assert_cancelled(ref)


def test_cancel_wait_and_await_find_it_ready(tally):
    """A cancelled task is ready for `ray.wait`, and awaiting it raises."""
    ref = sleeper.remote(tally)
    started(tally)
    ray.cancel(ref)
    assert ray.wait([ref], timeout=15) == ([ref], [])

    async def awaited():
        return await ref

    with pytest.raises(TaskCancelledError):
        asyncio.run(awaited())


def test_cancel_wakes_a_get_that_waits(tally):
    """A `get` that another thread waits in is woken by the cancellation."""
    import threading

    ref = sleeper.remote(tally)
    started(tally)
    seen = []

    def wait():
        try:
            ray.get(ref)
        except TaskCancelledError as error:
            seen.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    ray.cancel(ref)
    thread.join(15)
    assert len(seen) == 1


def test_cancel_leaves_the_worker_for_others(tally):
    """An interruption never reaches the next task: one after another is cancelled and each next one is whole."""

    @ray.remote(resources={"one": 1})
    def count(n):
        total = 0
        for i in range(n):
            total += i
        return total

    for i in range(12):
        victim = sleeper.options(resources={"one": 1}).remote(tally, f"v{i}")
        followers = [count.remote(1000) for _ in range(5)]
        started(tally, f"v{i}")
        ray.cancel(victim)
        assert ray.get(followers, timeout=15) == [499500] * 5
        assert_cancelled(victim)


def test_cancel_that_crosses_the_result_hits_nobody_else():
    """Cancelling short tasks at any moment gives their value or the cancellation, and harms no other task."""

    @ray.remote
    def short(i):
        return i

    values = cancelled = 0
    for i in range(300):
        ref, other = short.remote(i), short.remote(-i)
        ray.cancel(ref)
        assert ray.get(other, timeout=15) == -i
        try:
            assert ray.get(ref, timeout=15) == i
            values += 1
        except TaskCancelledError:
            cancelled += 1
    assert values + cancelled == 300


def test_cancel_by_force_ends_the_worker(tally):
    """With force the worker's process ends, whatever its code does, and the task is not retried."""

    @ray.remote(max_retries=3)
    def deaf():
        tally.add(os.getpid())
        while True:
            try:
                time.sleep(3600)
            except KeyboardInterrupt:
                tally.add("deaf")

    ref = deaf.remote()
    wait_for(tally.words)
    pid = int(tally.words()[0])
    ray.cancel(ref, force=True)
    with pytest.raises((TaskCancelledError, WorkerCrashedError)):
        ray.get(ref, timeout=15)
    wait_for(lambda: not is_alive(pid), timeout_s=15)
    assert tally.words() == [str(pid)]
    assert ray.get([identity.remote(i) for i in range(4)]) == [0, 1, 2, 3]


def test_cancel_by_force_of_a_queued_task_kills_nobody(tally):
    """Force on a task in line takes it out of the line, as without."""
    holder = sleeper.options(resources={"one": 1}).remote(tally, "holder")
    started(tally, "holder")
    ref = sleeper.options(resources={"one": 1}).remote(tally, "queued")
    ray.cancel(ref, force=True)
    assert_cancelled(ref)
    ray.cancel(holder)
    assert_cancelled(holder)
    assert "holder:KeyboardInterrupt" in tally.words()


def test_cancel_flag_is_seen_by_the_task(tally):
    """`is_canceled()` is false before and true after."""

    @ray.remote
    def flags():
        before = ray.get_runtime_context().is_canceled()
        try:
            doze(tally, "x")
        except KeyboardInterrupt:
            return before, ray.get_runtime_context().is_canceled()

    ref = flags.remote()
    started(tally)
    ray.cancel(ref)
    assert ray.get(ref, timeout=15) == (False, True)


def test_cancel_flag_is_not_kept_for_the_next_task(tally):
    """The next task of the worker is not cancelled."""
    ref = sleeper.options(resources={"one": 1}).remote(tally)
    started(tally)
    ray.cancel(ref)
    assert_cancelled(ref)

    @ray.remote(resources={"one": 1})
    def flag():
        return ray.get_runtime_context().is_canceled()

    assert ray.get(flag.remote(), timeout=15) is False


@pytest.mark.parametrize("bad", [1, None, "ref", [1]])
def test_cancel_of_something_else_is_a_type_error(bad):
    """Only references and generators can be cancelled."""
    with pytest.raises(TypeError):
        ray.cancel(bad)


def test_cancel_takes_keywords_only(tally):
    """`force` and `recursive` are keywords."""
    ref = sleeper.remote(tally)
    started(tally)
    with pytest.raises(TypeError):
        ray.cancel(ref, True)
    ray.cancel(ref)
    assert_cancelled(ref)


def test_cancelled_error_names_the_task(tally):
    """The error has the id of the task and says what happened."""
    ref = sleeper.remote(tally)
    started(tally)
    ray.cancel(ref)
    with pytest.raises(TaskCancelledError) as caught:
        ray.get(ref, timeout=15)
    assert "cancelled" in str(caught.value)
    assert ref.task_id().hex() in str(caught.value)

"""`ray.cancel` over processes: children of a cancelled call, references that others hold, puts."""

import numpy as np
import pytest

import ray
from support import wait_for
from support.cancelling import assert_cancelled, doze

pytestmark = [pytest.mark.runtime(num_cpus=4), pytest.mark.limit(30)]


@ray.remote
def sleeper(tally, word):
    doze(tally, word)


@ray.remote
def parent(tally, depth):
    """A chain of calls, each of which waits for the next."""
    tally.add(f"parent{depth}")
    child = parent.remote(tally, depth - 1) if depth else sleeper.remote(tally, "leaf")
    return ray.get(child)


@ray.remote
def canceller(box, **options):
    ray.cancel(box[0], **options)
    return "asked"


def test_cancel_reaches_children_and_their_children(tally):
    """By default what a task has submitted is cancelled with it, all the way down."""
    ref = parent.remote(tally, 1)
    wait_for(lambda: "leaf" in tally.words())
    ray.cancel(ref)
    assert_cancelled(ref)
    wait_for(lambda: "leaf:KeyboardInterrupt" in tally.words(), timeout_s=15)


def test_cancel_without_recursive_leaves_children(tally, gate):
    """With `recursive=False` the children go on."""

    @ray.remote
    def child():
        gate.pass_through()
        tally.add("child done")

    @ray.remote
    def mother():
        ref = child.remote()
        tally.add("mother")
        return ray.get(ref)

    ref = mother.remote()
    wait_for(lambda: gate.arrivals.count() == 1)
    ray.cancel(ref, recursive=False)
    assert_cancelled(ref)
    gate.open()
    wait_for(lambda: "child done" in tally.words(), timeout_s=15)


def test_cancel_reaches_children_in_line(tally):
    """Children that have not started never do."""

    @ray.remote
    def mother():
        refs = [sleeper.options(num_cpus=4).remote(tally, f"child{i}") for i in range(3)]
        tally.add("mother")
        return ray.get(refs)

    holder = sleeper.remote(tally, "holder")
    wait_for(lambda: "holder" in tally.words())
    ref = mother.remote()
    wait_for(lambda: "mother" in tally.words())
    ray.cancel(ref)
    assert_cancelled(ref)
    ray.cancel(holder)
    assert_cancelled(holder)

    @ray.remote(num_cpus=4)
    def whole_node():
        return 1

    assert ray.get(whole_node.remote(), timeout=15) == 1
    assert not any(word.startswith("child") for word in tally.words())


def test_cancel_by_a_borrower(tally):
    """Who has got the reference in an argument can cancel the task, which belongs to the driver."""
    ref = sleeper.remote(tally, "x")
    wait_for(lambda: "x" in tally.words())
    assert ray.get(canceller.remote([ref]), timeout=15) == "asked"
    assert_cancelled(ref)
    wait_for(lambda: "x:KeyboardInterrupt" in tally.words(), timeout_s=15)


def test_cancel_a_task_of_another_process(tally):
    """The driver can cancel what a task has submitted and given back."""

    @ray.remote
    def submit():
        return [sleeper.remote(tally, "x")]

    (ref,) = ray.get(submit.remote())
    wait_for(lambda: "x" in tally.words())
    ray.cancel(ref)
    assert_cancelled(ref)


def test_cancel_of_a_put_changes_nothing():
    """A value that was put belongs to no task of its own."""
    ref = ray.put({"a": 1})
    ray.cancel(ref)
    assert ray.get(ref) == {"a": 1}


def test_cancel_of_a_borrowed_put_changes_nothing():
    """Nor does a borrower's."""
    ref = ray.put({"a": 1})
    assert ray.get(canceller.remote([ref]), timeout=15) == "asked"
    assert ray.get(ref) == {"a": 1}


def test_cancel_in_a_loop_of_borrowers_ends(tally):
    """Several tasks cancel the same one at once; it ends once."""
    ref = sleeper.options(num_cpus=0).remote(tally, "x")
    wait_for(lambda: "x" in tally.words())
    asked = [canceller.options(num_cpus=0).remote([ref]) for _ in range(4)]
    assert ray.get(asked, timeout=15) == ["asked"] * 4
    assert_cancelled(ref)
    assert tally.words().count("x") == 1


def test_cancelled_task_keeps_no_argument(tally):
    """Its arguments are free again: the space of large ones comes back."""
    large = ray.put(np.ones(1_000_000))
    ref = sleeper.remote(tally, "x")
    waits = sleeper.remote(ref, large)
    wait_for(lambda: "x" in tally.words())
    ray.cancel(waits)
    ray.cancel(ref)
    assert_cancelled(ref)
    assert_cancelled(waits)
    assert float(ray.get(large).sum()) == 1_000_000

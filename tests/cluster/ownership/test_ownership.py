"""Who owns what across processes and nodes: borrowing over several hops, refs in refs, owners that die, freeing in the end."""

import gc
import os
import re
import signal

import numpy as np
import pytest

import ray
from ray.exceptions import OwnerDiedError
from support import wait_for
from support.clusters import DEATH_S, here, near, on, wait_until_free

pytestmark = pytest.mark.limit(25)

LARGE = 200_000  # of eight bytes: not inline


@ray.remote(num_cpus=0)
def ones():
    return np.ones(LARGE)


@ray.remote(num_cpus=0)
def total(value):
    return float(np.sum(value))


@ray.remote(num_cpus=0)
def total_of(box):
    return float(np.sum(ray.get(box[0])))


@ray.remote(num_cpus=0)
def pass_on(box, tags):
    """Hands the reference on to a task at the next tag; the last one reads it."""
    if not tags:
        return [here(), float(np.sum(ray.get(box[0])))]
    return [here(), *ray.get(on(pass_on, tags[0]).remote(box, tags[1:]))]


@ray.remote(num_cpus=0)
def make_boxed(count):
    """References made here, in a list; this worker is their owner."""
    return [ray.put(np.full(LARGE, i)) for i in range(count)]


@ray.remote(num_cpus=0)
def make_nested(depth):
    """A reference to a list that holds a reference to a list and so on, to an array at the end."""
    value = np.ones(LARGE)
    for _ in range(depth):
        value = [ray.put(value)]
    return value


@ray.remote(num_cpus=0)
class Keeper:
    def __init__(self):
        self.kept = []

    def keep(self, box):
        self.kept += box

    def totals(self):
        return [float(np.sum(ray.get(ref))) for ref in self.kept]

    def give_back(self):
        return self.kept

    def forget(self):
        self.kept = []

    def make(self):
        """The owner of the reference is this actor."""
        return [ray.put(np.ones(LARGE))]

    def pid(self):
        return os.getpid()


def read_until_it_fails(keeper):
    wait_for(lambda: ray.get(keeper.totals.remote(), timeout=2 * DEATH_S) and None, 2 * DEATH_S)


def test_borrowing_over_three_hops_reads_the_value_and_frees_it(nodes, n2, n3):
    """A reference goes from the driver over three nodes, nested each time, and is read at the end, when the driver has dropped its own."""
    ref = ray.put(np.ones(LARGE))
    hops = on(pass_on, n2).remote([ref], ["n3", "head", "n2"])
    del ref
    gc.collect()
    assert ray.get(hops, timeout=10) == [n2.id, n3.id, nodes.head_id, n2.id, float(LARGE)]
    del hops
    wait_until_free()


@pytest.mark.slow
def test_references_in_returned_lists_live_as_long_as_the_list(n2, n3):
    """A task on one node returns references to objects of its own; tasks on another read them, after the maker has long returned."""
    box = ray.get(on(make_boxed, n2).remote(5), timeout=10)
    sums = ray.get([on(total_of, n3).remote([ref]) for ref in box], timeout=10)
    assert sums == [float(i * LARGE) for i in range(5)]
    assert [float(ray.get(ref)[0]) for ref in box] == [0.0, 1.0, 2.0, 3.0, 4.0]
    del box
    wait_until_free()


@pytest.mark.slow
def test_outer_result_keeps_what_is_nested_in_it(n2, n3):
    """Nobody opens the result of a task until much later, through three levels, from two nodes; each level is there."""
    outer = on(make_nested, n2).remote(3)
    ray.wait([outer], timeout=10, fetch_local=False)
    ray.get([on(ones, n2).remote() for _ in range(20)], timeout=10)  # others use the maker's worker meanwhile

    @ray.remote(num_cpus=0)
    def open_all(value):
        while isinstance(value, list):
            value = ray.get(value[0])
        return float(np.sum(value))

    assert ray.get([on(open_all, tag).remote(outer) for tag in (n2, n3, "head")], timeout=10) == [float(LARGE)] * 3
    del outer
    wait_until_free()


def test_actor_keeps_what_was_made_elsewhere(n2, n3):
    """An actor on one node keeps references of the driver and of a task on a third; they live by it alone, and go when it forgets them."""
    keeper = on(Keeper, n2).remote()
    mine = ray.put(np.ones(LARGE))
    theirs = on(ones, n3).remote()
    ray.get(keeper.keep.remote([mine, theirs]), timeout=10)
    del mine, theirs
    gc.collect()
    assert ray.get(keeper.totals.remote(), timeout=10) == [float(LARGE)] * 2
    back = ray.get(keeper.give_back.remote(), timeout=10)
    ray.get(keeper.forget.remote(), timeout=10)
    assert [float(np.sum(value)) for value in ray.get(back, timeout=10)] == [float(LARGE)] * 2
    del back
    gc.collect()
    ray.kill(keeper)
    del keeper
    wait_until_free()


@pytest.mark.slow
def test_value_kept_by_two_borrowers_goes_with_the_last(n2, n3):
    """Of two actors that keep a reference one is killed: the other still reads it; when it lets go, the memory is free."""
    first, second = on(Keeper, n2).remote(), on(Keeper, n3).remote()
    ref = ray.put(np.ones(LARGE))
    ray.get([one.keep.remote([ref]) for one in (first, second)], timeout=10)
    del ref
    gc.collect()
    os.kill(ray.get(first.pid.remote(), timeout=5), signal.SIGKILL)
    assert ray.get(second.totals.remote(), timeout=10) == [float(LARGE)]
    ray.get(second.forget.remote(), timeout=10)
    ray.kill(second)
    del first, second
    wait_until_free()


def test_borrower_on_another_node_learns_of_the_owners_death(n2, n3):
    """The owner, an actor's process, is killed: a borrower on another node gets OwnerDiedError, which names object and owner; nothing is left."""
    owner, borrower = on(Keeper, n2).remote(), on(Keeper, n3).remote()
    box = ray.get(owner.make.remote(), timeout=10)
    pid = ray.get(owner.pid.remote(), timeout=5)
    name = box[0].hex()
    ray.get(borrower.keep.remote(box), timeout=10)
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(OwnerDiedError) as caught:
        read_until_it_fails(borrower)
    text = str(caught.value)
    assert name in text and re.search(rf"\b{pid}\b", text), text
    with pytest.raises(OwnerDiedError):
        ray.get(box[0], timeout=10)
    ray.kill(borrower)
    del box, owner, borrower, caught
    wait_until_free()


def test_borrower_learns_of_the_owners_node_death(nodes, n2, n3):
    """The owner's node is killed: a borrower on a third node gets OwnerDiedError, which names object and node, within the time of detection."""
    owner, borrower = on(Keeper, n2).remote(), on(Keeper, n3).remote()
    box = ray.get(owner.make.remote(), timeout=10)
    ray.get(borrower.keep.remote(box), timeout=10)
    nodes.kill(n2)
    with pytest.raises(OwnerDiedError) as caught:
        read_until_it_fails(borrower)
    assert box[0].hex() in str(caught.value) and n2.id in str(caught.value), str(caught.value)


def test_pending_reference_of_a_dead_owner_does_not_hang(n2, n3, gate):
    """A task waits for a result that a worker on another node owns and that is not made yet; the owner is killed: OwnerDiedError, no hang."""

    @ray.remote(num_cpus=0)
    class Owner:
        def start(self):
            return [on(ray.remote(num_cpus=0)(lambda: gate.pass_through()), "head").remote()], os.getpid()

    owner = on(Owner, n2).remote()
    box, pid = ray.get(owner.start.remote(), timeout=10)
    waiting = on(total_of, n3, max_retries=0).remote(box)
    wait_for(gate.pids)
    os.kill(pid, signal.SIGKILL)
    for ref in (waiting, box[0]):
        with pytest.raises(OwnerDiedError):
            ray.get(ref, timeout=10)


@pytest.mark.slow
def test_argument_that_is_pending_on_another_node_is_waited_for(n2, n3, gate):
    """A task on one node takes the result of a task on another that still runs, through two hops of dependence."""

    @ray.remote(num_cpus=0)
    def after_gate():
        gate.pass_through()
        return np.ones(LARGE)

    first = on(after_gate, n2).remote()
    second = on(ray.remote(num_cpus=0)(lambda value: value * 2), n3).remote(first)
    third = on(total, "head").remote(second)
    wait_for(gate.pids)
    assert ray.wait([third], timeout=0.1)[0] == []
    gate.open()
    assert ray.get(third, timeout=10) == 2.0 * LARGE
    del first, second, third
    wait_until_free()


def test_exception_with_a_reference_in_it_crosses_nodes(n2):
    """A user's exception that carries a reference of the failed task's node: whoever catches it can read the value."""

    class WithRef(Exception):
        def __init__(self, ref):
            super().__init__(ref)
            self.ref = ref

    @ray.remote(num_cpus=0, max_retries=0)
    def fail():
        raise WithRef(ray.put(np.ones(LARGE)))

    with pytest.raises(WithRef) as caught:
        ray.get(on(fail, n2).remote(), timeout=10)
    assert float(np.sum(ray.get(caught.value.cause.ref, timeout=10))) == LARGE


@pytest.mark.slow
def test_small_results_of_100k_tasks_over_nodes_are_right_and_freed(nodes, n2, n3):
    """100,000 small objects, made and read on three nodes, each right; nothing is left in any table."""

    @ray.remote(num_cpus=0)
    def make(start):
        return [ray.put(i) for i in range(start, start + 1000)]

    @ray.remote(num_cpus=0)
    def read(box):
        return sum(ray.get(box))

    tags = ["head", n2, n3]
    boxes = ray.get([on(make, tags[i % 3]).remote(1000 * i) for i in range(100)], timeout=20)
    sums = ray.get([on(read, tags[(i + 1) % 3]).remote(box) for i, box in enumerate(boxes)], timeout=20)
    assert sums == [sum(range(1000 * i, 1000 * i + 1000)) for i in range(100)]
    assert ray.get(boxes[57][123], timeout=5) == 57_123
    del boxes
    wait_until_free()


@pytest.mark.slow
def test_owner_near_its_node_can_be_killed_while_results_are_unread(nodes, n2, n3, tally):
    """A task that owns twenty unread results of other nodes is killed with its node and runs again elsewhere: right, with nothing left."""

    victim = n2.id

    @ray.remote(num_cpus=0, max_retries=2)
    def fan_out(tally):
        tally.add(here())
        refs = [on(ones, "n3").remote() for _ in range(20)]
        ray.wait(refs, num_returns=20, fetch_local=False)
        tally.add("ready")
        if here() == victim:
            signal.pause()
        return float(sum(np.sum(ray.get(ref)) for ref in refs))

    ref = near(fan_out, n2).remote(tally)
    wait_for(lambda: tally.words() == [victim, "ready"])
    nodes.kill(n2)
    assert ray.get(ref, timeout=3 * DEATH_S) == 20.0 * LARGE
    del ref
    wait_until_free()

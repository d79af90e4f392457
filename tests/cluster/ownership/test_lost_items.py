"""Items of generators whose node is killed: the generator runs again, and gives once more only what somebody still refers to."""

import numpy as np
import pytest

import ray
from ray.exceptions import ObjectLostError
from support import Gate, wait_for
from support.clusters import DEATH_S, near, on, wait_until_dead, wait_until_free

pytestmark = pytest.mark.limit(50)

LARGE = 500_000
WAIT_S = 3 * DEATH_S


@ray.remote(num_cpus=0)
def items(tally, count):
    for i in range(count):
        tally.add(i)
        yield np.full(LARGE, i)


def settled(generator, count):
    """References to that many items, all of them there."""
    refs = [next(generator) for _ in range(count)]
    assert len(ray.wait(refs, num_returns=count, timeout=10, fetch_local=False)[0]) == count
    return refs


def firsts(refs):
    return [int(ray.get(ref, timeout=WAIT_S)[0]) for ref in refs]


def test_items_lost_with_their_node_are_made_again(nodes, n2, tally):
    """All items of an ended generator were on the killed node: reading them runs it once more, on another node."""
    refs = settled(near(items, n2).remote(tally, 3), 3)
    nodes.kill(n2)
    assert firsts(refs) == [0, 1, 2]
    assert tally.words() == ["0", "1", "2"] * 2
    del refs
    wait_until_free()


def test_items_that_were_consumed_are_not_given_again(nodes, n2, tally):
    """Two of five items are read and dropped when the node dies: the reader goes on with the third, and each comes once."""
    generator = near(items, n2).remote(tally, 5)
    assert firsts(settled(generator, 2)) == [0, 1]
    ray.wait([generator.completed()], timeout=10)
    nodes.kill(n2)
    assert firsts(generator) == [2, 3, 4]
    assert tally.words() == ["0", "1", "2", "3", "4"] * 2
    del generator
    wait_until_free()


def test_generator_killed_with_its_node_half_way_goes_on(nodes, n2, tally, gate: Gate):
    """The node dies while the generator runs: what was read is kept or made again, what follows comes, each item once."""

    @ray.remote(num_cpus=0)
    def gated(tally, gate):
        for i in range(4):
            if i == 2 and tally.add(f"run {i}") == 1:
                gate.pass_through()
            yield np.full(LARGE, i)

    generator = near(gated, n2).remote(tally, gate)
    kept = settled(generator, 2)
    wait_for(gate.pids, 10.0)
    nodes.kill(n2)
    assert firsts([*kept, *generator]) == [0, 1, 2, 3]


def test_items_of_a_restarted_actor_are_made_again(nodes, n2, tally):
    """A method's items are made again by the actor's next life, if its calls may be repeated."""

    @ray.remote(num_cpus=0, max_restarts=1, max_task_retries=2)
    class Maker:
        def items(self, tally):
            for i in range(3):
                tally.add(i)
                yield np.full(LARGE, i)

    maker = near(Maker, n2).remote()
    refs = settled(maker.items.remote(tally), 3)
    nodes.kill(n2)
    assert firsts(refs) == [0, 1, 2]


def test_items_without_retries_are_lost_and_say_why(nodes, n2, tally):
    """`max_retries=0`: an item that went with its node can't be made again."""
    refs = settled(near(items, n2, max_retries=0).remote(tally, 2), 2)
    nodes.kill(n2)
    with pytest.raises(ObjectLostError, match="max_retries=0"):
        ray.get(refs[0], timeout=WAIT_S)
    assert tally.count() == 2


def test_items_of_a_dynamic_generator_are_made_again(nodes, n2, tally):
    """`num_returns="dynamic"`: the list of references outlives the node, and what they refer to is made again."""
    refs = list(ray.get(near(items, n2, num_returns="dynamic").remote(tally, 3), timeout=10))
    nodes.kill(n2)
    assert firsts(refs) == [0, 1, 2]


def test_item_that_another_lost_result_needs_is_made_again_first(nodes, n2, tally):
    """A result made from an item is lost with it, and the item was dropped: both are made again."""

    @ray.remote(num_cpus=0)
    def double(value):
        return value * 2

    (item,) = settled(near(items, n2).remote(tally, 1), 1)
    doubled = near(double, n2).remote(item)
    ray.wait([doubled], timeout=10, fetch_local=False)
    del item
    nodes.kill(n2)
    wait_until_dead(n2)
    assert int(ray.get(doubled, timeout=WAIT_S)[0]) == 0
    assert tally.words() == ["0", "0"]


def test_items_lost_that_nobody_refers_to_run_nothing_again(nodes, n2, tally):
    """Items that were read and dropped cost nothing when their node dies."""
    assert firsts(settled(near(items, n2).remote(tally, 2), 2)) == [0, 1]
    nodes.kill(n2)
    wait_until_dead(n2)
    assert ray.get(on(ray.remote(num_cpus=0)(lambda: 1), "head").remote(), timeout=10) == 1
    assert tally.count() == 2

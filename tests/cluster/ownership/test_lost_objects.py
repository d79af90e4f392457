"""Objects whose node is killed: what can be made again is, with what it needs and no more; the rest says why not."""

import numpy as np
import pytest

import ray
from ray.exceptions import ObjectLostError, ObjectReconstructionFailedError, OwnerDiedError
from support import Tally, wait_for
from support.clusters import DEATH_S, near, on, wait_until_dead, wait_until_free

pytestmark = pytest.mark.limit(50)

LARGE = 500_000
WAIT_S = 3 * DEATH_S


@ray.remote(num_cpus=0)
def step(tally, name, *values):
    """One more than the sum of its inputs, element by element."""
    tally.add(name)
    return np.ones(LARGE, np.int64) + sum(values)


@ray.remote(num_cpus=0)
def small(tally, name, *values):
    tally.add(name)
    return int(sum(value[0] for value in values)) + 1


def settle(refs):
    assert len(ray.wait(refs, num_returns=len(refs), timeout=10, fetch_local=False)[0]) == len(refs)


def runs(tally):
    words = tally.words()
    return {word: words.count(word) for word in sorted(set(words))}


def test_chain_of_three_lost_intermediates_is_made_again_in_order(nodes, n2, tally):
    """Three large results, each from the one before, all on the killed node: asking for the last runs each once more, and the value is right."""
    a = near(step, n2).remote(tally, "a")
    b = near(step, n2).remote(tally, "b", a)
    c = near(step, n2).remote(tally, "c", b)
    settle([a, b, c])
    nodes.kill(n2)
    assert ray.get(c, timeout=WAIT_S)[0] == 3
    assert tally.words()[3:] == ["a", "b", "c"]
    assert ray.get(a, timeout=WAIT_S)[0] == 1 and ray.get(b, timeout=WAIT_S)[0] == 2
    assert runs(tally) == {"a": 2, "b": 2, "c": 2}
    del a, b, c
    wait_until_free()


@pytest.mark.slow
def test_chain_whose_inputs_were_dropped_is_made_again(nodes, n2, tally):
    """The program has dropped the intermediates; only the last is wanted, and its lineage is still known."""
    last = near(step, n2).remote(tally, "a")
    for name in "bc":
        last = near(step, n2).remote(tally, name, last)
    settle([last])
    nodes.kill(n2)
    assert ray.get(last, timeout=WAIT_S)[0] == 3
    assert runs(tally) == {"a": 2, "b": 2, "c": 2}
    del last
    wait_until_free()


def test_inputs_that_survive_are_not_made_again(nodes, n2, n3, tally):
    """An input on a third node is still there: only what was lost runs again."""
    kept = near(step, n3).remote(tally, "kept")
    lost = near(step, n2).remote(tally, "lost", kept)
    settle([kept, lost])
    nodes.kill(n2)
    assert ray.get(lost, timeout=WAIT_S)[0] == 2
    assert runs(tally) == {"kept": 1, "lost": 2}


def test_copy_on_another_node_saves_the_work(nodes, n2, tally):
    """The driver still reads a copy when the node of the original is killed: its view stays right whatever is made again."""
    ref = near(step, n2).remote(tally, "a")
    view = ray.get(ref, timeout=10)
    nodes.kill(n2)
    wait_until_dead(n2)
    assert int(view.sum()) == LARGE
    assert int(ray.get(ref, timeout=WAIT_S).sum()) == LARGE
    assert runs(tally)["a"] <= 2


def test_diamond_makes_its_common_input_again_once(nodes, n2, tally):
    """Two lost results need the same lost input: it runs once more, not twice."""
    top = near(step, n2).remote(tally, "top")
    left, right = (near(step, n2).remote(tally, name, top) for name in ("left", "right"))
    bottom = near(step, n2).remote(tally, "bottom", left, right)
    settle([top, left, right, bottom])
    nodes.kill(n2)
    assert ray.get(bottom, timeout=WAIT_S)[0] == 5
    assert runs(tally) == {"top": 2, "left": 2, "right": 2, "bottom": 2}


def test_small_results_are_never_lost(nodes, n2, tally):
    """A small result travelled to its owner at once: it survives the node, and nothing runs again."""
    a = near(step, n2).remote(tally, "a")
    result = near(small, n2).remote(tally, "small", a)
    assert ray.get(result, timeout=10) == 2
    del a  # whoever holds a lost object has it made again
    nodes.kill(n2)
    wait_until_dead(n2)
    assert ray.get(result, timeout=5) == 2
    assert runs(tally) == {"a": 1, "small": 1}


def test_task_that_waits_for_a_lost_argument_gets_it(nodes, n2, tally):
    """A task is queued with a lost argument: the argument is made again and the task runs once."""
    argument = near(step, n2).remote(tally, "argument")
    settle([argument])
    nodes.kill(n2)
    result = on(small, "head").remote(tally, "task", argument)
    assert ray.get(result, timeout=WAIT_S) == 2
    assert runs(tally) == {"argument": 2, "task": 1}


def test_lost_result_without_retries_says_that_it_may_not_run_again(nodes, n2, tally):
    """`max_retries=0`: ObjectLostError for the value and for what needs it, and nothing runs."""
    lost = near(step, n2, max_retries=0).remote(tally, "lost")
    settle([lost])
    nodes.kill(n2)
    with pytest.raises(ObjectLostError) as caught:
        ray.get(lost, timeout=WAIT_S)
    assert lost.hex() in str(caught.value) and "max_retries" in str(caught.value), str(caught.value)
    with pytest.raises(ObjectLostError):
        ray.get(on(small, "head").remote(tally, "needs it", lost), timeout=WAIT_S)
    assert runs(tally) == {"lost": 1}


def test_chain_that_ends_at_an_unrepeatable_input_fails_with_its_name(nodes, n2, tally):
    """The last step may run again, its input may not: the error of the last names the input."""
    base = near(step, n2, max_retries=0).remote(tally, "base")
    last = near(step, n2).remote(tally, "last", base)
    settle([base, last])
    nodes.kill(n2)
    with pytest.raises(ObjectLostError) as caught:
        ray.get(last, timeout=WAIT_S)
    assert base.hex() in str(caught.value), str(caught.value)
    assert runs(tally) == {"base": 1, "last": 1}


def test_repeating_ends_when_the_retries_are_used_up(nodes, tally):
    """`max_retries=1`: the lost value is made again once; lost again, it is an ObjectLostError, and nothing more runs."""
    first = nodes.add("n2", resources={"lab": 1})
    ref = step.options(max_retries=1, resources={"lab": 0.1}).remote(tally, "x")
    settle([ref])
    second = nodes.add("n3", resources={"lab": 1})
    nodes.kill(first)
    wait_for(lambda: runs(tally) == {"x": 2}, WAIT_S)
    settle([ref])
    nodes.kill(second)
    nodes.add("n4", resources={"lab": 1})
    with pytest.raises(ObjectLostError) as caught:
        ray.get(ref, timeout=WAIT_S)
    assert ref.hex() in str(caught.value), str(caught.value)
    assert runs(tally) == {"x": 2}


def test_put_inside_a_task_of_the_dead_node_says_that_its_owner_died(nodes, n2):
    """A reference made by `ray.put` inside a task of the dead node: OwnerDiedError, which names the object and the node."""

    @ray.remote(num_cpus=0)
    def put():
        return [ray.put(np.ones(LARGE))]

    (ref,) = ray.get(on(put, n2).remote(), timeout=10)
    nodes.kill(n2)
    with pytest.raises(OwnerDiedError) as caught:
        ray.get(ref, timeout=WAIT_S)
    assert ref.hex() in str(caught.value) and n2.id in str(caught.value), str(caught.value)


def test_result_of_an_actor_is_lost_with_its_node(nodes, n2):
    """A large result of an actor without task retries is an ObjectLostError when its node is killed."""

    @ray.remote(num_cpus=0)
    class Maker:
        def make(self):
            return np.ones(LARGE)

    maker = on(Maker, n2).remote()
    ref = maker.make.remote()
    settle([ref])
    nodes.kill(n2)
    with pytest.raises((ObjectLostError, ObjectReconstructionFailedError)) as caught:
        ray.get(ref, timeout=WAIT_S)
    assert ref.hex() in str(caught.value), str(caught.value)


@pytest.mark.slow
def test_hundred_lost_results_are_all_right_again(nodes, n2, tmp_path):
    """A hundred results on a killed node: each is made again exactly once, and each is right."""
    tallies = [Tally(tmp_path / f"tally-{i}") for i in range(100)]

    @ray.remote(num_cpus=0)
    def make(tally, number):
        tally.add()
        return np.full(50_000, number)

    refs = [near(make, n2).remote(tally, number) for number, tally in enumerate(tallies)]
    settle(refs)
    nodes.kill(n2)
    values = ray.get(refs, timeout=WAIT_S)
    assert [int(value[-1]) for value in values] == list(range(100))
    assert [tally.count() for tally in tallies] == [2] * 100
    del values, refs
    wait_until_free()


def test_result_of_several_values_is_lost_and_made_again_as_one(nodes, n2, tally):
    """Of the two large values of one task both were on the killed node: one more run makes both."""

    @ray.remote(num_cpus=0, num_returns=2)
    def pair():
        tally.add("pair")
        return np.ones(LARGE), np.zeros(LARGE)

    refs = list(near(pair, n2).remote())
    settle(refs)
    nodes.kill(n2)
    ones, zeros = ray.get(refs, timeout=WAIT_S)
    assert (ones.sum(), zeros.sum()) == (LARGE, 0)
    assert tally.count() == 2


def test_wait_sees_a_lost_result_as_pending_and_then_as_ready(nodes, n2, tally):
    """`ray.wait` does not call a lost value ready for good: it waits for the repeated task and then reports it."""
    ref = near(step, n2).remote(tally, "x")
    settle([ref])
    nodes.kill(n2)
    wait_until_dead(n2)
    ready, _ = ray.wait([ref], timeout=WAIT_S)
    assert ready == [ref] and ray.get(ref, timeout=5)[0] == 1
    wait_for(lambda: runs(tally) == {"x": 2})

"""Placement groups over several nodes: where bundles go, what their calls use, and fault F56, nodes that die under them."""

import os
import signal
import time

import pytest

import ray
from ray.util import get_placement_group, placement_group, placement_group_table, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy
from ray.util.state import explain
from support import is_alive, start_script, wait_for
from support.clusters import DEATH_S, here, wait_until_dead

pytestmark = pytest.mark.limit(30)


@ray.remote
def where():
    return here()


@ray.remote
def hold(gate):
    gate.pass_through()
    return here()


@ray.remote(num_cpus=1)
class Member:
    def where(self):
        return here()

    def pid(self):
        return os.getpid()


@pytest.fixture
def make(nodes):
    """Creates groups that are removed when the test ends."""
    made = []

    def create(*args, **kwargs):
        made.append(placement_group(*args, **kwargs))
        return made[-1]

    yield create
    for group in made:
        remove_placement_group(group)


def within(group, index=-1, capture=None):
    return PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=index, placement_group_capture_child_tasks=capture)


def state(group):
    return placement_group_table(group)["state"]


def places(group):
    """The node ids of the bundles, once the group is created."""
    assert group.wait(10)
    return list(placement_group_table(group)["bundles_to_node_id"].values())


def all_free(cpus):
    wait_for(lambda: ray.available_resources().get("CPU") == cpus, 10.0, f"{cpus} CPUs free")


def test_strict_spread_puts_each_bundle_on_a_node_of_its_own(make, nodes, n2):
    found = places(make([{"CPU": 1}, {"CPU": 1}], strategy="STRICT_SPREAD"))
    assert sorted(found) == sorted([nodes.head_id, n2.id])


def test_topology_strategy_keeps_all_bundles_in_one_rack(make, nodes):
    """Neither rack holds four bundles with the head's, and the head is in no rack."""
    by_rack = {
        rack: [nodes.add(f"{rack}{n}", labels={"rack": rack}, num_cpus=cpus) for n, cpus in enumerate(sizes)]
        for rack, sizes in {"a": [1, 1], "b": [1, 2]}.items()
    }
    found = places(make([{"CPU": 1}] * 3, topology_strategy={"rack": "STRICT_PACK"}))
    assert sorted(set(found)) == sorted(node.id for node in by_rack["b"])
    spread = make([{"CPU": 1}] * 2, topology_strategy={"rack": "STRICT_PACK", "ray.io/node-id": "STRICT_SPREAD"})
    assert sorted(places(spread)) == sorted(node.id for node in by_rack["a"])
    waiting = make([{"CPU": 1}] * 4, topology_strategy={"rack": "STRICT_PACK"})
    assert not waiting.wait(0.3) and "'rack'" in placement_group_table(waiting)["why"].replace('"', "'")


def test_strict_pack_puts_all_bundles_on_one_node(make, nodes):
    large = nodes.add("large", num_cpus=3)
    assert places(make([{"CPU": 1}] * 3, strategy="STRICT_PACK")) == [large.id] * 3


def test_strict_pack_tries_the_node_that_is_named_first(make, nodes, n2):
    for target in (n2.id, nodes.head_id):
        assert places(make([{"CPU": 1}], strategy="STRICT_PACK", _soft_target_node_id=target)) == [target]


def test_pack_goes_over_several_nodes_where_one_is_too_small(make, nodes, n2):
    assert sorted(places(make([{"CPU": 1}, {"CPU": 1}], strategy="PACK"))) == sorted([nodes.head_id, n2.id])


def test_spread_uses_all_nodes_and_then_some_twice(make, nodes):
    large = nodes.add("large", num_cpus=3)
    found = places(make([{"CPU": 1}] * 4, strategy="SPREAD"))
    assert set(found) == {nodes.head_id, large.id}


def test_bundles_go_where_their_resources_and_labels_are(make, nodes):
    """Also when an earlier bundle would fit there as well."""
    other = nodes.add("other", labels={"zone": "b"})
    found = places(make([{"CPU": 1}, {"CPU": 1}], strategy="STRICT_SPREAD", bundle_label_selector=[{}, {"zone": "b"}]))
    assert found == [nodes.head_id, other.id]
    assert places(make([{"other": 1}])) == [other.id]


def test_group_waits_for_a_node_that_can_take_it(make, nodes):
    group = make([{"CPU": 1}, {"CPU": 1}], strategy="STRICT_SPREAD")
    assert not group.wait(0.2)
    assert "STRICT_SPREAD needs 2 different nodes" in placement_group_table(group)["why"]
    late = nodes.add("late")
    assert late.id in places(group)


def test_nothing_of_a_group_that_does_not_fit_is_reserved(make, nodes, n2):
    """Two of its three bundles would fit."""
    group = make([{"CPU": 1}] * 3)
    assert not group.wait(0.3)
    all_free(2.0)


def test_calls_run_on_the_node_of_their_bundle(make, nodes, n2):
    group = make([{"CPU": 1}, {"CPU": 1}], strategy="STRICT_SPREAD")
    expected = places(group)
    assert ray.get([where.options(scheduling_strategy=within(group, at)).remote() for at in (0, 1)]) == expected
    actors = [Member.options(scheduling_strategy=within(group, at)).remote() for at in (0, 1)]
    assert ray.get([actor.where.remote() for actor in actors]) == expected


def test_calls_for_any_bundle_use_all_nodes(make, nodes, n2, gate):
    group = make([{"CPU": 1}, {"CPU": 1}], strategy="STRICT_SPREAD")
    expected = places(group)
    refs = [hold.options(scheduling_strategy=within(group)).remote(gate) for _ in range(4)]
    wait_for(lambda: len(gate.pids()) == 2)
    gate.open()
    assert sorted(set(ray.get(refs))) == sorted(expected)


def test_actors_for_any_bundle_use_all_nodes(make, nodes, n2):
    group = make([{"CPU": 1}, {"CPU": 1}], strategy="STRICT_SPREAD")
    expected = places(group)
    actors = [Member.options(scheduling_strategy=within(group)).remote() for _ in range(2)]
    assert sorted(ray.get([actor.where.remote() for actor in actors])) == sorted(expected)


def test_child_calls_follow_to_other_nodes(make, nodes, n2):
    @ray.remote(num_cpus=1)
    def parent():
        return here(), ray.get(where.options(num_cpus=0, resources={"n2": 1}).remote())

    group = make([{"CPU": 1}, {"n2": 1}])
    assert places(group)[1] == n2.id
    assert ray.get(parent.options(scheduling_strategy=within(group, 0, True)).remote())[1] == n2.id


def test_removal_ends_what_runs_on_every_node(make, nodes, n2):
    group = make([{"CPU": 1}, {"CPU": 1}], strategy="STRICT_SPREAD")
    actors = [Member.options(scheduling_strategy=within(group, at)).remote() for at in (0, 1)]
    pids = ray.get([actor.pid.remote() for actor in actors])
    remove_placement_group(group)
    wait_for(lambda: not any(map(is_alive, pids)))
    all_free(2.0)


def test_bundle_of_a_dead_node_is_placed_anew(make, nodes, n2):
    """The other bundle and its actor stay; the actor of the lost one comes back with it."""
    group = make([{"CPU": 1}, {"CPU": 1}], strategy="STRICT_SPREAD")
    at = places(group).index(n2.id)
    lost = Member.options(max_restarts=-1, max_task_retries=-1, scheduling_strategy=within(group, at)).remote()
    kept = Member.options(scheduling_strategy=within(group, 1 - at)).remote()
    pid = ray.get(kept.pid.remote())
    assert ray.get(lost.where.remote()) == n2.id
    nodes.kill(n2)
    wait_until_dead(n2)
    wait_for(lambda: state(group) == "RESCHEDULING")
    assert not group.wait(0.2)
    n3 = nodes.add("n3")
    assert n3.id in places(group)
    assert ray.get(lost.where.remote(), timeout=10) == n3.id
    assert ray.get(kept.pid.remote()) == pid


def test_task_of_a_dead_bundle_runs_again_in_the_new_one(make, nodes, n2, gate):
    group = make([{"CPU": 1}, {"CPU": 1}], strategy="STRICT_SPREAD")
    at = places(group).index(n2.id)
    ref = hold.options(scheduling_strategy=within(group, at)).remote(gate)
    wait_for(lambda: len(gate.pids()) == 1)
    nodes.kill(n2)
    wait_until_dead(n2)
    n3 = nodes.add("n3")
    gate.open()
    assert ray.get(ref, timeout=10) == n3.id


def test_f56_node_dies_while_groups_are_created(make, nodes, n2):
    """Groups are whole or pending, never half granted; all are whole when there is a node again, and nothing stays reserved after their removal."""
    groups = [make([{"CPU": 0.01}, {"CPU": 0.01}], strategy="STRICT_SPREAD") for _ in range(20)]
    nodes.kill(n2)
    groups += [make([{"CPU": 0.01}, {"CPU": 0.01}], strategy="STRICT_SPREAD") for _ in range(20)]
    wait_until_dead(n2)
    wait_for(lambda: not [group for group in groups if state(group) == "CREATED"], 2 * DEATH_S, "no group is whole")
    n3 = nodes.add("n3")
    for group in groups:
        assert sorted(places(group)) == sorted([nodes.head_id, n3.id])
    for group in groups:
        remove_placement_group(group)
    all_free(2.0)


def test_f56_node_dies_in_the_middle_of_a_commit(make, nodes, n2):
    """The node is stopped, so that it can't answer, and killed: nothing of the group stays with the other one."""
    os.kill(n2.pid, signal.SIGSTOP)
    group = make([{"CPU": 1}, {"CPU": 1}], strategy="STRICT_SPREAD")
    assert not group.wait(0.5)
    os.kill(n2.pid, signal.SIGKILL)
    wait_until_dead(n2)
    wait_for(lambda: state(group) == "PENDING")
    all_free(1.0)


DRIVER = """
import os, signal
import ray
from ray.util import placement_group
ray.init(address=os.environ["ADDRESS"], namespace="shared", log_to_driver=False)
own = placement_group([{"CPU": 0.5}], name="own")
kept = placement_group([{"CPU": 0.25}], name="kept", lifetime="detached")
assert own.wait(10) and kept.wait(10)
print("created", flush=True)
signal.pause()
"""


def test_end_of_a_driver_removes_its_groups_but_detached_ones(nodes, tmp_path):
    with start_script(DRIVER, cwd=tmp_path, env={"ADDRESS": nodes.address}) as script:
        script.wait_for_output("created")
        wait_for(lambda: ray.available_resources().get("CPU") == 0.25)
        named = {entry["name"]: entry for entry in placement_group_table().values() if entry["state"] == "CREATED"}
        assert set(named) == {"own", "kept"}
        with pytest.raises(ValueError):
            get_placement_group("kept")  # of another namespace
        script.signal(signal.SIGKILL)
    wait_for(lambda: placement_group_table()[named["own"]["placement_group_id"]]["state"] == "REMOVED")
    assert placement_group_table()[named["kept"]["placement_group_id"]]["state"] == "CREATED"
    reader = "import os, ray\nfrom ray.util import get_placement_group, remove_placement_group\nray.init(address=os.environ['ADDRESS'], namespace='shared')\nremove_placement_group(get_placement_group('kept'))\nprint('removed', flush=True)\n"
    with start_script(reader, cwd=tmp_path, env={"ADDRESS": nodes.address}) as script:
        script.wait_for_output("removed")
        assert script.finish().rc == 0
    all_free(1.0)


def test_group_that_waits_explains_itself(make, nodes, n2):
    """By what it needs and what there is; and so do the calls that wait for it."""
    holder = make([{"CPU": 1}, {"CPU": 1}], strategy="STRICT_SPREAD")
    assert holder.wait(10)
    group = make([{"CPU": 1}])
    ref = where.options(scheduling_strategy=within(group)).remote()
    ready = group.ready()
    for subject in (group, group.id.hex(), ref, ready):
        text = wait_for(lambda subject=subject: (found := explain(subject).text) and "PENDING" in found and found, 5.0)
        assert "together {CPU: 1}" in text and "node 0: {CPU: 0}" in text, text
    never = make([{"CPU": 5}])
    assert "2 lack CPU (need 5, best 1)" in explain(never).text


def test_thousand_groups_are_created_and_removed(nodes, n2):
    begun = time.monotonic()
    groups = [placement_group([{"CPU": 0.0001}, {"CPU": 0.0001}], strategy="SPREAD") for _ in range(1000)]
    assert len(ray.get([group.ready() for group in groups], timeout=20)) == 1000
    for group in groups:
        remove_placement_group(group)
    all_free(2.0)
    print(f"1,000 groups over two nodes in {time.monotonic() - begun:.2f} s")

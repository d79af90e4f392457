"""Placement groups are created, waited for, found and described."""

import pickle

import pytest

import ray
from ray.exceptions import RaySystemError
from ray.util import get_placement_group, placement_group, placement_group_table, remove_placement_group
from ray.util.placement_group import PlacementGroup
from support import wait_for

pytestmark = [pytest.mark.runtime(num_cpus=4, num_gpus=2, resources={"slot": 4}, namespace="groups"), pytest.mark.limit(30)]

STRATEGIES = ["PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD"]


@pytest.fixture
def make():
    """Creates groups that are removed when the test ends."""
    made = []

    def create(*args, **kwargs):
        made.append(placement_group(*args, **kwargs))
        return made[-1]

    yield create
    for group in made:
        remove_placement_group(group)
    wait_for(lambda: ray.available_resources().get("CPU") == 4.0)


def state(group):
    return placement_group_table(group)["state"]


def test_ready_gives_the_group_itself(make):
    """What `ready` refers to is the group."""
    group = make([{"CPU": 1}])
    assert ray.get(group.ready()) == group
    assert state(group) == "CREATED"


def test_ready_can_be_waited_for_with_other_references(make):
    """It is a reference like any other."""
    refs = [make([{"CPU": 0.5}]).ready() for _ in range(3)]
    ready, rest = ray.wait(refs, num_returns=3, timeout=20)
    assert (len(ready), rest) == (3, [])


def test_ready_is_asked_twice(make):
    group = make([{"CPU": 1}])
    assert ray.get([group.ready(), group.ready()]) == [group, group]


def test_wait_tells_that_it_is_there(make):
    assert make([{"CPU": 1}]).wait(20) is True


def test_wait_gives_up_in_time(make):
    """A group that does not fit is not there in time; it stays pending."""
    group = make([{"CPU": 5}])
    assert group.wait(0.2) is False
    assert state(group) == "PENDING"


def test_group_without_strategy_is_packed(make):
    group = make([{"CPU": 1}])
    assert group.wait(20)
    assert placement_group_table(group)["strategy"] == "PACK"


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_one_bundle_fits_with_every_strategy(make, strategy):
    group = make([{"CPU": 1}], strategy=strategy)
    assert group.wait(20)
    assert placement_group_table(group)["strategy"] == strategy


@pytest.mark.parametrize("strategy", ["PACK", "SPREAD", "STRICT_PACK"])
def test_two_bundles_fit_on_one_node(make, strategy):
    assert make([{"CPU": 1}, {"CPU": 2}], strategy=strategy).wait(20)


def test_two_bundles_on_different_nodes_need_two(make):
    """STRICT_SPREAD on one node waits for a second one."""
    group = make([{"CPU": 1}, {"CPU": 1}], strategy="STRICT_SPREAD")
    assert group.wait(0.5) is False
    assert state(group) == "PENDING"


def test_reserved_resources_are_not_available(make):
    group = make([{"CPU": 2, "slot": 1}, {"GPU": 1}])
    assert group.wait(20)
    wait_for(lambda: (ray.available_resources().get("CPU"), ray.available_resources().get("slot"), ray.available_resources().get("GPU")) == (2.0, 3.0, 1.0))
    assert ray.cluster_resources()["CPU"] == 4.0


def test_group_waits_for_one_that_holds_what_it_needs(make):
    """It is placed when the other one is removed."""
    first, second = make([{"CPU": 3}]), make([{"CPU": 3}])
    assert first.wait(20)
    assert second.wait(0.3) is False
    remove_placement_group(first)
    assert second.wait(20)


def test_small_group_overtakes_one_that_waits(make):
    large, small = make([{"CPU": 5}]), make([{"CPU": 1}])
    assert small.wait(20)
    assert state(large) == "PENDING"


def test_many_groups_at_once(make):
    groups = [make([{"CPU": 0.1}]) for _ in range(30)]
    assert all(ray.get([group.ready() for group in groups]))


def test_bundles_are_told_as_they_were_given(make):
    group = make([{"CPU": 1, "slot": 2}, {"GPU": 0.5}])
    assert group.bundle_specs == [{"CPU": 1, "slot": 2}, {"GPU": 0.5}]
    assert group.bundle_count == 2


def test_bundle_may_have_fractions(make):
    group = make([{"CPU": 0.5, "slot": 0.25}])
    assert group.wait(20)
    wait_for(lambda: ray.available_resources()["CPU"] == 3.5)


def test_memory_is_reserved_in_bytes(make):
    before = ray.available_resources()["memory"]
    group = make([{"memory": 1024 * 1024}])
    assert group.wait(20)
    wait_for(lambda: ray.available_resources()["memory"] == before - 1024 * 1024)


def test_group_has_an_id(make):
    group = make([{"CPU": 1}])
    assert len(group.id.binary()) == 18
    assert group.id.hex() == placement_group_table(group)["placement_group_id"]


def test_groups_are_equal_by_id(make):
    group, other = make([{"CPU": 1}]), make([{"CPU": 1}])
    assert group == PlacementGroup(group.id)
    assert group != other
    assert len({group, PlacementGroup(group.id), other}) == 2


def test_empty_group_stands_for_none(make):
    assert PlacementGroup.empty().is_empty
    assert not make([{"CPU": 1}]).is_empty


def test_group_survives_pickling(make):
    group = make([{"CPU": 1}])
    copy = pickle.loads(pickle.dumps(group))
    assert (copy, copy.bundle_specs) == (group, [{"CPU": 1}])


def test_group_is_passed_to_a_task(make):
    """The task waits for it and reads its bundles."""

    @ray.remote(num_cpus=0)
    def look(group):
        return group.wait(20), ray.get(group.ready()) == group, group.bundle_specs

    group = make([{"CPU": 1}])
    assert ray.get(look.remote(group)) == (True, True, [{"CPU": 1}])


def test_group_of_a_task_outlives_it():
    """It belongs to the job, not to the worker that made it."""

    @ray.remote(num_cpus=0)
    def create():
        group = placement_group([{"CPU": 1}])
        assert group.wait(20)
        return group

    group = ray.get(create.remote())
    assert state(group) == "CREATED"
    remove_placement_group(group)


def test_name_finds_the_group(make):
    group = make([{"CPU": 1}], name="found")
    found = get_placement_group("found")
    assert found == group
    assert found.bundle_specs == [{"CPU": 1.0}]
    assert placement_group_table(group)["name"] == "found"


def test_name_of_a_removed_group_is_free_again(make):
    remove_placement_group(make([{"CPU": 1}], name="again"))
    with pytest.raises(ValueError):
        wait_for(lambda: get_placement_group("again") is None)
    assert make([{"CPU": 1}], name="again").wait(20)


@pytest.mark.parametrize("name", ["unknown", "", None])
def test_unknown_name_is_an_error(name):
    with pytest.raises(ValueError):
        get_placement_group(name)


def test_table_describes_a_group(make):
    group = make([{"CPU": 1}, {"GPU": 1}], name="described")
    assert group.wait(20)
    entry = placement_group_table(group)
    (node,) = ray.nodes()
    assert entry["bundles"] == {0: {"CPU": 1.0}, 1: {"GPU": 1.0}}
    assert entry["bundles_to_node_id"] == {0: node["NodeID"], 1: node["NodeID"]}
    assert (entry["name"], entry["strategy"], entry["state"]) == ("described", "PACK", "CREATED")
    assert entry["stats"]["scheduling_state"] == "FINISHED"


def test_table_of_all_has_every_group(make):
    group = make([{"CPU": 1}])
    assert group.wait(20)
    assert placement_group_table()[group.id.hex()]["state"] == "CREATED"


def test_selector_that_no_node_meets_waits(make):
    group = make([{"CPU": 1}], bundle_label_selector=[{"zone": "nowhere"}])
    assert group.wait(0.3) is False
    assert state(group) == "PENDING"


def test_selector_that_the_node_meets_is_placed(make):
    (node,) = ray.nodes()
    group = make([{"CPU": 1}] * 2, bundle_label_selector=[{"ray.io/node-id": node["NodeID"]}] * 2)
    assert group.wait(20)


@pytest.mark.parametrize(
    "bundles",
    [None, {"CPU": 1}, ({"CPU": 1},), [], [{}], [{"CPU": 0}], [{"CPU": 1}, {}], [{"CPU": "1"}], ["CPU"], [{1: 1}]],
    ids=str,
)
def test_bad_bundles_are_refused_at_once(bundles):
    with pytest.raises(ValueError):
        placement_group(bundles)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_topology_strategy_of_nodes_is_the_strategy(make, strategy):
    group = make([{"CPU": 1}], topology_strategy={"ray.io/node-id": strategy})
    assert group.wait(20)
    assert placement_group_table(group)["strategy"] == strategy


def test_topology_label_that_no_node_has_waits(make):
    group = make([{"CPU": 1}], topology_strategy={"rack": "STRICT_PACK"})
    assert group.wait(0.5) is False
    assert placement_group_table(group)["stats"]["scheduling_state"] == "INFEASIBLE"


@pytest.mark.parametrize(
    "options",
    [
        {"topology_strategy": "rack"},
        {"topology_strategy": [("rack", "STRICT_PACK")]},
        {"topology_strategy": {"": "STRICT_PACK"}},
        {"topology_strategy": {5: "STRICT_PACK"}},
        {"topology_strategy": {"rack": "strict_pack"}},
        {"topology_strategy": {"rack": "SPREAD"}},
        {"topology_strategy": {"rack": "STRICT_PACK", "host": "STRICT_PACK"}},
        {"topology_strategy": {"rack": "STRICT_PACK"}, "strategy": "PACK"},
    ],
    ids=str,
)
def test_bad_topology_strategies_are_refused_at_once(options):
    with pytest.raises(ValueError, match=r"(?i)topology.strategy"):
        placement_group([{"CPU": 1}], **options)


def test_taken_name_is_refused(make):
    make([{"CPU": 1}], name="taken")
    with pytest.raises(RaySystemError, match="taken"):
        placement_group([{"CPU": 1}], name="taken")


def test_negative_amount_is_refused():
    with pytest.raises(ValueError, match="negative"):
        placement_group([{"CPU": -1}])


@pytest.mark.parametrize(
    "options",
    [
        {"strategy": "PACKED"},
        {"strategy": "pack"},
        {"lifetime": "forever"},
        {"bundle_label_selector": []},
        {"bundle_label_selector": {"a": "b"}},
        {"bundle_label_selector": [{"a": "b"}] * 2},
        {"bundle_label_selector": [{"a": "b c"}]},
        {"_soft_target_node_id": "ab"},
        {"_soft_target_node_id": "ab", "strategy": "STRICT_PACK"},
    ],
    ids=str,
)
def test_bad_options_are_refused_at_once(options):
    with pytest.raises(ValueError):
        placement_group([{"CPU": 1}], **options)

"""Where calls may go: strategy objects, label selectors, and what the engine is told."""

import pickle

import pytest

from ray._core.calls.options import check_actor_options, check_task_options, options_key
from ray._core.calls.strategies import DEFAULT, follows_caller, strategy_of
from ray._core.ids import PlacementGroupID
from ray.util.placement_group import PlacementGroup
from ray.util.scheduling_strategies import (
    DoesNotExist,
    Exists,
    In,
    NodeAffinitySchedulingStrategy,
    NodeLabelSchedulingStrategy,
    NotIn,
    PlacementGroupSchedulingStrategy,
)

NODE = "ab" * 28


class NodeId:
    """Stands for `ray.NodeID`."""

    def hex(self) -> str:
        return NODE


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({}, ("default",)),
        ({"scheduling_strategy": None}, ("default",)),
        ({"scheduling_strategy": "DEFAULT", "label_selector": {}}, ("default",)),
        ({"scheduling_strategy": "SPREAD"}, ("spread",)),
        ({"scheduling_strategy": NodeAffinitySchedulingStrategy(NODE, soft=False)}, ("node", bytes.fromhex(NODE), False)),
        ({"scheduling_strategy": NodeAffinitySchedulingStrategy(NodeId(), True)}, ("node", bytes.fromhex(NODE), True)),
        (
            {"scheduling_strategy": NodeLabelSchedulingStrategy({"a": In("x", "y"), "b": NotIn("z")}, soft={"c": Exists(), "d": DoesNotExist()})},
            (
                "labels",
                [
                    [("a", ["x", "y"], False), ("b", ["z"], True), ("c", [], False), ("d", [], True)],
                    [("a", ["x", "y"], False), ("b", ["z"], True)],
                ],
            ),
        ),
        ({"scheduling_strategy": NodeLabelSchedulingStrategy({}, soft={"c": Exists()})}, ("labels", [[("c", [], False)], []])),
        ({"label_selector": {"a": "x"}}, ("labels", [[("a", ["x"], False)]])),
        ({"label_selector": {"a": "!x"}}, ("labels", [[("a", ["x"], True)]])),
        ({"label_selector": {"a": "in(x, y)"}}, ("labels", [[("a", ["x", "y"], False)]])),
        ({"label_selector": {"a": "!in(x,y)"}}, ("labels", [[("a", ["x", "y"], True)]])),
        (
            {"label_selector": {"a": "x"}, "fallback_strategy": [{"label_selector": {"b": "y"}}, {"label_selector": None}]},
            ("labels", [[("a", ["x"], False)], [("b", ["y"], False)], []]),
        ),
        ({"fallback_strategy": [{"label_selector": {"b": "y"}}]}, ("default",)),
        ({"label_selector": {"a": ""}}, ("labels", [[("a", [""], False)]])),
        ({"label_selector": {"ray.io/node-id": NODE}}, ("labels", [[("ray.io/node-id", [NODE], False)]])),
        ({"label_selector": {"a": "x"}, "scheduling_strategy": "SPREAD"}, ("labels", [[("a", ["x"], False)]])),
    ],
)
def test_options_become_what_the_engine_is_told(options: dict, told: tuple) -> None:
    check_task_options(options)
    check_actor_options(options)
    assert strategy_of(options, dict) == told


@pytest.mark.parametrize("check", [check_task_options, check_actor_options])
@pytest.mark.parametrize(
    "options",
    [
        {"scheduling_strategy": NodeAffinitySchedulingStrategy("ff" * 28, soft=False)},
        {"scheduling_strategy": NodeAffinitySchedulingStrategy("ff" * 28, soft=True)},
        {"scheduling_strategy": NodeAffinitySchedulingStrategy("ab", soft=False)},
        {"scheduling_strategy": NodeAffinitySchedulingStrategy("no hex", soft=False)},
        {"scheduling_strategy": "spread"},
        {"scheduling_strategy": 1},
        {"label_selector": {"a": 1}},
        {"label_selector": {1: "a"}},
        {"label_selector": {"": "a"}},
        {"label_selector": {"a": "in(x"}},
        {"label_selector": {"a": "in()x"}},
        {"label_selector": {"a": "!!x"}},
        {"label_selector": {"a": "x" * 64}},
        {"label_selector": {"a": "-x"}},
        {"label_selector": {"a": "in(x, y z)"}},
    ],
)
def test_bad_strategy_is_refused_when_it_is_given(check, options: dict) -> None:
    with pytest.raises(ValueError):
        check(options)


def test_selector_of_another_type_is_refused() -> None:
    with pytest.raises(TypeError):
        check_task_options({"label_selector": ["a"]})


def test_selector_and_strategy_object_together_are_refused() -> None:
    with pytest.raises(ValueError, match="can't be combined"):
        strategy_of({"label_selector": {"a": "b"}, "scheduling_strategy": NodeAffinitySchedulingStrategy(NODE, soft=True)}, dict)


@pytest.mark.parametrize(
    "make",
    [
        In,
        NotIn,
        lambda: In(1),
        lambda: NodeLabelSchedulingStrategy({}),
        lambda: NodeLabelSchedulingStrategy({}, soft={}),
        lambda: NodeLabelSchedulingStrategy({"a": "b"}),
        lambda: NodeLabelSchedulingStrategy({1: Exists()}),
        lambda: NodeLabelSchedulingStrategy([In("a")]),
        lambda: NodeAffinitySchedulingStrategy(NODE, False, _spill_on_unavailable=True),
        lambda: NodeAffinitySchedulingStrategy(NODE, True, _fail_on_unavailable=True),
    ],
)
def test_bad_parts_are_refused_when_made(make) -> None:
    with pytest.raises(ValueError):
        make()


def test_place_in_a_group_is_told_as_id_bundle_and_capture() -> None:
    group = PlacementGroup(PlacementGroupID(b"g" * 18), [{"CPU": 1.0}])

    def place(context: dict[str, bool], **options: object) -> tuple[object, ...]:
        return strategy_of(options, lambda: context)

    outside, inside = {"captures_children": False}, {"captures_children": True}
    assert place(outside, scheduling_strategy=PlacementGroupSchedulingStrategy(group, 3, True)) == ("group", b"g" * 18, 3, True)
    assert place(inside, scheduling_strategy=PlacementGroupSchedulingStrategy(group)) == ("group", b"g" * 18, -1, True)
    assert place(outside, placement_group=group, placement_group_bundle_index=1) == ("group", b"g" * 18, 1, False)
    assert place(inside, scheduling_strategy=PlacementGroupSchedulingStrategy(PlacementGroup.empty())) == DEFAULT
    assert place(inside, placement_group=None) == DEFAULT
    with pytest.raises(ValueError, match="combined"):
        place(outside, placement_group=group, scheduling_strategy="SPREAD")
    with pytest.raises(ValueError, match="needs the placement group"):
        place(outside, placement_group_bundle_index=1)


def test_only_what_says_nothing_of_its_place_follows_its_caller() -> None:
    assert follows_caller({}) and follows_caller({"num_cpus": 1, "placement_group": "default"})
    for said in ({"scheduling_strategy": "SPREAD"}, {"placement_group": None}, {"placement_group_capture_child_tasks": False}):
        assert not follows_caller(said)


def test_equal_strategies_share_a_call_site_and_survive_pickling() -> None:
    def make() -> NodeLabelSchedulingStrategy:
        return NodeLabelSchedulingStrategy({"a": In("x")}, soft={"b": Exists()})

    assert options_key({"scheduling_strategy": make()}) == options_key({"scheduling_strategy": make()})
    assert pickle.loads(pickle.dumps(make())) == make()
    assert make() != NodeLabelSchedulingStrategy({"a": In("y")}, soft={"b": Exists()})
    assert In("x") != NotIn("x")

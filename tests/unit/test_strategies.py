"""Where calls may go: strategy objects, label selectors, and what the engine is told."""

import pickle

import pytest

from ray._core.calls.options import check_actor_options, check_task_options, options_key
from ray._core.calls.strategies import strategy_of
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
            ("labels", [("a", ["x", "y"], False), ("b", ["z"], True)], [("c", [], False), ("d", [], True)]),
        ),
        ({"scheduling_strategy": NodeLabelSchedulingStrategy({}, soft={"c": Exists()})}, ("labels", [], [("c", [], False)])),
        ({"label_selector": {"a": "x"}}, ("labels", [("a", ["x"], False)], [])),
        ({"label_selector": {"a": "!x"}}, ("labels", [("a", ["x"], True)], [])),
        ({"label_selector": {"a": "in(x, y)"}}, ("labels", [("a", ["x", "y"], False)], [])),
        ({"label_selector": {"a": "!in(x,y)"}}, ("labels", [("a", ["x", "y"], True)], [])),
        ({"label_selector": {"a": ""}}, ("labels", [("a", [""], False)], [])),
        ({"label_selector": {"ray.io/node-id": NODE}}, ("labels", [("ray.io/node-id", [NODE], False)], [])),
        ({"label_selector": {"a": "x"}, "scheduling_strategy": "SPREAD"}, ("labels", [("a", ["x"], False)], [])),
    ],
)
def test_options_become_what_the_engine_is_told(options: dict, told: tuple) -> None:
    check_task_options(options)
    check_actor_options(options)
    assert strategy_of(options) == told


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
        strategy_of({"label_selector": {"a": "b"}, "scheduling_strategy": NodeAffinitySchedulingStrategy(NODE, soft=True)})


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


def test_placement_groups_are_said_to_come() -> None:
    with pytest.raises(NotImplementedError, match="not available yet"):
        PlacementGroupSchedulingStrategy(object())


def test_equal_strategies_share_a_call_site_and_survive_pickling() -> None:
    def make() -> NodeLabelSchedulingStrategy:
        return NodeLabelSchedulingStrategy({"a": In("x")}, soft={"b": Exists()})

    assert options_key({"scheduling_strategy": make()}) == options_key({"scheduling_strategy": make()})
    assert pickle.loads(pickle.dumps(make())) == make()
    assert make() != NodeLabelSchedulingStrategy({"a": In("y")}, soft={"b": Exists()})
    assert In("x") != NotIn("x")

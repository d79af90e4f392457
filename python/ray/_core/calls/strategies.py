"""Where calls and actors may go: the strategy classes (`ray.util.scheduling_strategies`), label selectors, and what the engine is told.

The engine's form is a tuple: ("default",), ("spread",), ("node", node id as bytes, soft), ("group", id as bytes, bundle, capture) or ("labels", any), where `any` is a list
of lists of conditions (label, values, absent): all of one of them must hold, the earlier the better. A condition holds if the node's label is one of the values, or is there at all
if there are none; `absent` turns it round.
"""

from __future__ import annotations

import re

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    Condition = tuple[str, list[str], bool]
    Strategy = tuple[Any, ...]

DEFAULT: tuple[str, ...] = ("default",)
NODE_ID_LABEL = "ray.io/node-id"
"""A label that every node has."""
_NODE_ID_BYTES = 28
_NIL_NODE = b"\xff" * _NODE_ID_BYTES
_LABEL = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?")
_SELECTOR = re.compile(r"(?P<absent>!?)(?:in\((?P<values>[^()]*)\)|(?P<value>[^()!]*))")


class _ByFields:
    """Equal if the attributes are: equal options share one call site."""

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and vars(self) == vars(other)

    def __hash__(self) -> int:
        return hash((type(self), repr(sorted(vars(self).items()))))

    def __repr__(self) -> str:
        fields = ", ".join(f"{name}={value!r}" for name, value in vars(self).items() if not name.startswith("_"))
        return f"{type(self).__name__}({fields})"


def _label_values(operator: str, values: tuple[Any, ...]) -> list[str]:
    if not values:
        raise ValueError(f"{operator}() needs at least one value\nhint: Exists() and DoesNotExist() ask only whether a label is there")
    for value in values:
        if not isinstance(value, str):
            raise ValueError(f"{operator}() takes strings, got {type(value).__name__}: {value!r}")
    return list(values)


class In(_ByFields):
    """The label has one of the values.

    Args:
        *values: What it may be.

    Raises:
        ValueError: No values, or some that are no strings.
    """

    def __init__(self, *values: str) -> None:
        self.values = _label_values("In", values)

    def condition(self, key: str) -> Condition:
        """What the engine is told."""
        return key, list(self.values), False


class NotIn(_ByFields):
    """The label has none of the values, or is not there.

    Args:
        *values: What it may not be.

    Raises:
        ValueError: No values, or some that are no strings.
    """

    def __init__(self, *values: str) -> None:
        self.values = _label_values("NotIn", values)

    def condition(self, key: str) -> Condition:
        """What the engine is told."""
        return key, list(self.values), True


class Exists(_ByFields):
    """The label is there."""

    def condition(self, key: str) -> Condition:
        """What the engine is told."""
        return key, [], False


class DoesNotExist(_ByFields):
    """The label is not there."""

    def condition(self, key: str) -> Condition:
        """What the engine is told."""
        return key, [], True


class PlacementGroupSchedulingStrategy(_ByFields):
    """Run inside a placement group.

    Args:
        placement_group: The group; None for none.
        placement_group_bundle_index: Which of its bundles; -1 for any in which there is room.
        placement_group_capture_child_tasks: Whether what is started there goes there too. None: as the caller's own group has it.

    Example:
        >>> f.options(scheduling_strategy=PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=0)).remote()
    """

    def __init__(self, placement_group: Any, placement_group_bundle_index: int = -1, placement_group_capture_child_tasks: bool | None = None) -> None:
        self.placement_group = placement_group
        self.placement_group_bundle_index = placement_group_bundle_index
        self.placement_group_capture_child_tasks = placement_group_capture_child_tasks


class NodeAffinitySchedulingStrategy(_ByFields):
    """Run on one node.

    Args:
        node_id: Its id in hex, as in `ray.nodes()` and `ray.get_runtime_context().get_node_id()`.
        soft: Go elsewhere if that node is dead, instead of failing.
        _spill_on_unavailable: Go elsewhere if the node has no room now. Not available yet.
        _fail_on_unavailable: Fail if the node has no room now. Not available yet.

    Raises:
        ValueError: `_spill_on_unavailable` without `soft`, or `_fail_on_unavailable` with it.
        NotImplementedError: One of the two is asked for.

    Example:
        >>> here = ray.get_runtime_context().get_node_id()
        >>> f.options(scheduling_strategy=NodeAffinitySchedulingStrategy(here, soft=False)).remote()
    """

    def __init__(self, node_id: str, soft: bool, _spill_on_unavailable: bool = False, _fail_on_unavailable: bool = False) -> None:
        if _spill_on_unavailable and not soft:
            raise ValueError("_spill_on_unavailable goes with soft=True only")
        if _fail_on_unavailable and soft:
            raise ValueError("_fail_on_unavailable goes with soft=False only")
        if _spill_on_unavailable or _fail_on_unavailable:
            raise NotImplementedError("_spill_on_unavailable and _fail_on_unavailable are not available yet")
        self.node_id = node_id if isinstance(node_id, str) else node_id.hex()
        self.soft = soft
        self._spill_on_unavailable = _spill_on_unavailable
        self._fail_on_unavailable = _fail_on_unavailable

    def node_bytes(self) -> bytes:
        """Give the id as bytes.

        Raises:
            ValueError: It is no id of a node, or the nil id.
        """
        try:
            raw = bytes.fromhex(self.node_id)
        except ValueError:
            raw = b""
        if len(raw) != _NODE_ID_BYTES:
            raise ValueError(f"{self.node_id!r} is no id of a node (56 hex digits)\nhint: ray.nodes() lists the nodes with their NodeID")
        if raw == _NIL_NODE:
            raise ValueError("the nil id stands for no node, so nothing can run there\nhint: ray.nodes() lists the nodes with their NodeID")
        return raw


class NodeLabelSchedulingStrategy(_ByFields):
    """Run on a node with certain labels.

    Args:
        hard: What the labels must be.
        soft: What they should be, if there is a choice.

    Raises:
        ValueError: Both are empty, or something in them is no condition.

    Example:
        >>> NodeLabelSchedulingStrategy(hard={"zone": In("a", "b")}, soft={"disk": Exists()})
    """

    def __init__(
        self,
        hard: dict[str, In | NotIn | Exists | DoesNotExist],
        *,
        soft: dict[str, In | NotIn | Exists | DoesNotExist] | None = None,
    ) -> None:
        _check_conditions("hard", hard)
        _check_conditions("soft", soft)
        if not hard and not soft:
            raise ValueError("NodeLabelSchedulingStrategy needs a condition in hard or in soft")
        self.hard = hard
        self.soft = soft

    def conditions(self) -> list[list[Condition]]:
        """What the engine is told."""
        hard, soft = ([value.condition(key) for key, value in (part or {}).items()] for part in (self.hard, self.soft))
        return [hard + soft, hard] if soft else [hard]


def _check_conditions(name: str, conditions: Any) -> None:
    if conditions is None:
        return
    if not isinstance(conditions, dict):
        raise ValueError(f"{name} must be a dict such as {{'zone': In('a')}}, got {type(conditions).__name__}: {conditions!r}")
    for key, value in conditions.items():
        if not isinstance(key, str):
            raise ValueError(f"{name} must have labels as keys, got {type(key).__name__}: {key!r}")
        if not isinstance(value, (In, NotIn, Exists, DoesNotExist)):
            raise ValueError(f"{name}[{key!r}] must be In, NotIn, Exists or DoesNotExist, got {type(value).__name__}: {value!r}")


# Checks of options. Each gets the option's name and a value of the right type.


def check_strategy(name: str, value: Any) -> None:
    """Check the option `scheduling_strategy`.

    Raises:
        ValueError: It is no strategy, or names no node.
    """
    if isinstance(value, NodeAffinitySchedulingStrategy):
        value.node_bytes()
    elif isinstance(value, PlacementGroupSchedulingStrategy):
        check_placement_group(name, value.placement_group)
    elif value not in (None, "DEFAULT", "SPREAD") and not isinstance(value, NodeLabelSchedulingStrategy):
        raise ValueError(f"{name} must be None, 'DEFAULT', 'SPREAD' or a strategy object, got {value!r}")


def check_placement_group(name: str, value: Any) -> None:
    """Check the option `placement_group`.

    Raises:
        TypeError: It is something else altogether.
        ValueError: It is another string than "default".
    """
    if isinstance(value, str) and value != "default":
        raise ValueError(f"{name} must be a PlacementGroup, None or 'default', got {value!r}")
    if value is not None and value != "default" and not hasattr(value, "bundle_specs"):
        raise TypeError(f"{name} must be a PlacementGroup, None or 'default', got {type(value).__name__}: {value!r}")


def check_label_selector(name: str, value: Any) -> None:
    """Check the option `label_selector`.

    Raises:
        ValueError: It does not say which labels and values.
    """
    selected(name, value)


def check_fallbacks(name: str, value: Any) -> None:
    """Check the option `fallback_strategy`.

    Raises:
        ValueError: Its items are no dicts that say which labels.
    """
    for at, item in enumerate(value or []):
        if not isinstance(item, dict) or not item:
            raise ValueError(f'{name}[{at}] must be a dict such as {{"label_selector": {{"zone": "a"}}}}, got {item!r}')
        if unknown := [key for key in item if key != "label_selector"]:
            raise ValueError(f'{name}[{at}] can only have "label_selector", got {", ".join(map(repr, unknown))}')
        if not isinstance(item["label_selector"], (dict, type(None))):
            raise ValueError(f'{name}[{at}]["label_selector"] must be a dict, got {item["label_selector"]!r}')
        selected(f'{name}[{at}]["label_selector"]', item["label_selector"])


def selected(name: str, selector: Mapping[str, str] | None) -> list[Condition]:
    """Give the engine's form of a label selector.

    Raises:
        ValueError: It does not say which labels and values.
    """
    return [_condition(f"{name}[{key!r}]", key, value) for key, value in (selector or {}).items()]


def _condition(what: str, key: Any, value: Any) -> Condition:
    if not isinstance(key, str) or not key:
        raise ValueError(f"{what}: the name of a label is a string, got {key!r}")
    if not isinstance(value, str):
        raise ValueError(f"{what} must be a string, got {type(value).__name__}: {value!r}")
    match = _SELECTOR.fullmatch(value.strip())
    if match is None:
        raise ValueError(f'{what} must be "value", "!value", "in(a, b)" or "!in(a, b)", got {value!r}')
    values = [match["value"].strip()] if match["values"] is None else [one.strip() for one in match["values"].split(",")]
    for one in values:
        check_label_value(what, one)
    return key, values, match["absent"] == "!"


def check_label_value(what: str, value: str) -> None:
    """Check the value of a label. Compat: Ray's rule, which is that of Kubernetes.

    Args:
        what: What it is the value of, for the error.
        value: The value.

    Raises:
        ValueError: It has too many or the wrong characters.
    """
    if value and _LABEL.fullmatch(value) is None:
        raise ValueError(f"{what}: a label's value has at most 63 letters, digits, '-', '_' and '.', with a letter or digit at both ends; got {value!r}")


def strategy_of(options: Mapping[str, Any], context: Callable[[], Mapping[str, Any]]) -> Strategy:
    """Give the engine's form of what the options say about the place.

    Args:
        options: Checked options.
        context: Gives the caller's context (`Core.context`), for what depends on its own placement group.

    Returns:
        The tuple. A label selector goes before "SPREAD": the first is a condition, the second a wish.

    Raises:
        ValueError: Options that can't be combined.
    """
    strategy: Any = options.get("scheduling_strategy")
    conditions = selected("label_selector", options.get("label_selector"))
    if conditions and not isinstance(strategy, str) and strategy is not None:
        raise ValueError(f"label_selector and scheduling_strategy={strategy!r} can't be combined\nhint: say it all in one of them")
    place = group_of(options)
    if place is not None:
        capture = place.placement_group_capture_child_tasks
        captures = bool(context()["captures_children"] if capture is None else capture)
        return "group", place.placement_group.id.binary(), place.placement_group_bundle_index, captures
    if conditions:
        fallbacks = options.get("fallback_strategy") or []
        return "labels", [conditions, *(selected("fallback_strategy", item["label_selector"]) for item in fallbacks)]
    if isinstance(strategy, NodeAffinitySchedulingStrategy):
        return "node", strategy.node_bytes(), bool(strategy.soft)
    if isinstance(strategy, NodeLabelSchedulingStrategy):
        return "labels", strategy.conditions()
    return ("spread",) if strategy == "SPREAD" else DEFAULT


def group_of(options: Mapping[str, Any]) -> PlacementGroupSchedulingStrategy | None:
    """Give the placement group that the options name, however they do.

    Raises:
        ValueError: Two ways at once, or a bundle of no group.
    """
    strategy, group = options.get("scheduling_strategy"), options.get("placement_group", "default")
    index = options.get("placement_group_bundle_index", -1)
    if group not in (None, "default"):
        if strategy is not None:
            raise ValueError("placement_group and scheduling_strategy can't be combined\nhint: PlacementGroupSchedulingStrategy says it all")
        strategy = PlacementGroupSchedulingStrategy(group, index, options.get("placement_group_capture_child_tasks"))
    elif index != -1 and not isinstance(strategy, PlacementGroupSchedulingStrategy):
        raise ValueError(
            f"placement_group_bundle_index={index} needs the placement group\nhint: add placement_group=..., or use PlacementGroupSchedulingStrategy"
        )
    if not isinstance(strategy, PlacementGroupSchedulingStrategy) or strategy.placement_group in (None, "default"):
        return None
    return None if strategy.placement_group.is_empty else strategy


def follows_caller(options: Mapping[str, Any]) -> bool:
    """Tell whether nothing is said about the place: it is that of the caller's placement group, if that captures what is started there."""
    return (
        options.get("scheduling_strategy") is None
        and options.get("placement_group", "default") == "default"
        and options.get("placement_group_capture_child_tasks") is not False
    )

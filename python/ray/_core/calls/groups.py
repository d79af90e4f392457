"""Checks of what users say about placement groups: their bundles, and requests for a place in them."""

from __future__ import annotations

from ray._core.calls.strategies import NODE_ID_LABEL, check_label_selector

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_NODE_ID_BYTES = 28
STRATEGIES = ("PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD")


def check_strategy(strategy: Any, soft_node: str | None) -> str:
    """Check the strategy.

    Raises:
        ValueError: It is none, or a node is named that it can't use.
    """
    if strategy not in STRATEGIES:
        raise ValueError(f"strategy must be one of {', '.join(STRATEGIES)}, got {strategy!r}")
    if soft_node and strategy != "STRICT_PACK":
        raise ValueError(f"_soft_target_node_id goes with STRICT_PACK only, got {strategy}")
    return str(strategy)


def check_topology(strategy: Any, topology: Any) -> tuple[Any, str]:
    """Take the option `topology_strategy` apart.

    Returns:
        The strategy for nodes, None if nothing is said of it, and the label of which all nodes must have the same value, "" for none.

    Raises:
        ValueError: It is no dict from labels to strategies, or says what is not possible.
    """
    if topology is None:
        return strategy, ""
    if not isinstance(topology, dict):
        raise ValueError(f"topology_strategy must be a dict such as {{'rack': 'STRICT_PACK'}}, got {type(topology).__name__}: {topology!r}")
    if topology and strategy is not None:
        raise ValueError(f"strategy and topology_strategy can't both be given\nhint: topology_strategy={{{NODE_ID_LABEL!r}: {strategy!r}, ...}} says the same")
    for label, one in topology.items():
        if not label or not isinstance(label, str):
            raise ValueError(f"topology_strategy must map labels to strategies, got the label {label!r}")
        if one not in STRATEGIES:
            raise ValueError(f"topology_strategy[{label!r}] must be one of {', '.join(STRATEGIES)}, got {one!r}")
        if label != NODE_ID_LABEL and one != "STRICT_PACK":
            raise ValueError(f"topology_strategy[{label!r}] can be STRICT_PACK only, got {one!r}: the others are for {NODE_ID_LABEL}")
    domains = [label for label in topology if label != NODE_ID_LABEL]
    if len(domains) > 1:
        raise ValueError(f"topology_strategy takes one label besides {NODE_ID_LABEL}, got {', '.join(domains)}")
    return topology.get(NODE_ID_LABEL, strategy), "".join(domains)


def check_lifetime(lifetime: Any) -> bool:
    """Check the lifetime.

    Returns:
        Whether it is detached.

    Raises:
        ValueError: It is none.
    """
    if lifetime not in (None, "detached"):
        raise ValueError(f"lifetime must be 'detached' or None, got {lifetime!r}")
    return lifetime is not None


def check_soft_node(node_id: str | None) -> bytes:
    """Give the id of the node to try first as bytes; empty for none.

    Raises:
        ValueError: It is no id.
    """
    if not node_id:
        return b""
    try:
        raw = bytes.fromhex(node_id)
    except (ValueError, TypeError):
        raw = b""
    if len(raw) != _NODE_ID_BYTES:
        raise ValueError(f"_soft_target_node_id must be the id of a node in hex (56 digits), got {node_id!r}")
    return raw


def check_name(name: Any) -> str:
    """Check the name; "" and None are none.

    Raises:
        TypeError: It is no string.
    """
    if name is not None and not isinstance(name, str):
        raise TypeError(f"name must be a string, got {type(name).__name__}: {name!r}")
    return name or ""


def check_bundles(bundles: Any) -> list[dict[str, float]]:
    """Check the bundles of a new group.

    Returns:
        Them, with amounts as floats.

    Raises:
        ValueError: They are no list of dicts of amounts, of which one at least is above zero.
    """
    if not isinstance(bundles, list):
        raise ValueError(f"bundles must be a list of dicts, got {type(bundles).__name__}: {bundles!r}")
    if not bundles:
        raise ValueError("bundles must not be empty: a placement group has at least one bundle")
    return [_checked(at, bundle) for at, bundle in enumerate(bundles)]


def _checked(at: int, bundle: Any) -> dict[str, float]:
    if not isinstance(bundle, dict):
        raise ValueError(f"bundles[{at}] must be a dict such as {{'CPU': 1}}, got {type(bundle).__name__}: {bundle!r}")
    for name, amount in bundle.items():
        if not isinstance(name, str):
            raise ValueError(f"bundles[{at}] must map names to amounts, got the name {name!r}")
        if not isinstance(amount, (int, float)):
            raise ValueError(f"bundles[{at}][{name!r}] must be a number, got {type(amount).__name__}: {amount!r}")
        if amount < 0:
            raise ValueError(f"bundles[{at}][{name!r}] cannot be negative, got {amount!r}")
    if not any(bundle.values()):
        raise ValueError(f"bundles[{at}] asks for nothing: bundles cannot be empty or have amounts of 0 only, got {bundle!r}")
    return {name: float(amount) for name, amount in bundle.items()}


def check_selectors(selectors: Any, bundles: int) -> list[dict[str, str]]:
    """Check the label selectors of a new group.

    Returns:
        One for each bundle; none at all if there are no conditions.

    Raises:
        ValueError: They are no list of selectors, or not as many as bundles.
    """
    if selectors is None:
        return []
    if not isinstance(selectors, list) or not all(isinstance(one, dict) for one in selectors):
        raise ValueError(f"bundle_label_selector must be a list of dicts, got {selectors!r}")
    if len(selectors) != bundles:
        raise ValueError(f"bundle_label_selector must have one entry for each of the {bundles} bundles, got {len(selectors)}")
    for at, one in enumerate(selectors):
        check_label_selector(f"bundle_label_selector[{at}]", one)
    return list(selectors)


def check_request(group: Any, index: int, name: str, *shapes: dict[str, float]) -> None:
    """Check that something can ever run in a group.

    Args:
        group: The group.
        index: Which bundle; -1 for any.
        name: What is to run there, for the error.
        *shapes: The resources that it needs, each in one bundle.

    Raises:
        ValueError: There is no such bundle, or what is needed does not fit.
    """
    bundles = group.bundle_specs
    if not -1 <= index < len(bundles):
        raise ValueError(f"placement group bundle index {index} is invalid: the group has the bundles 0 to {len(bundles) - 1}, and -1 stands for any")
    for shape in shapes:
        allowed = bundles if index == -1 else [bundles[index]]
        if bundles and not any(_fits(shape, bundle) for bundle in allowed):
            where = "any bundle" if index == -1 else f"bundle {index}"
            raise ValueError(f"{name} can't run in the placement group: its request for {shape} does not fit into {where} of {bundles}")


def _fits(shape: dict[str, float], bundle: dict[str, float]) -> bool:
    return all(amount <= bundle.get(name, 0.0) for name, amount in shape.items())

"""Placement groups: bundles of resources that are reserved together, or not at all.

Example:
    >>> group = placement_group([{"CPU": 1}, {"CPU": 1}], strategy="SPREAD")
    >>> ray.get(group.ready())
    >>> f.options(scheduling_strategy=PlacementGroupSchedulingStrategy(group)).remote()
    >>> remove_placement_group(group)
"""

from __future__ import annotations

from typing import Any

from ray._core import session
from ray._core.calls.groups import check_bundles, check_lifetime, check_name, check_selectors, check_soft_node, check_strategy, check_topology
from ray._core.calls.strategies import selected
from ray._core.ids import PlacementGroupID
from ray.exceptions import RaySystemError, TaskUnschedulableError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ray._native import Core, ObjectRef

__all__ = [
    "PlacementGroup",
    "get_current_placement_group",
    "get_placement_group",
    "placement_group",
    "placement_group_table",
    "remove_placement_group",
]

DEFAULT_WAIT_S = 30


class PlacementGroup:
    """A handle to a placement group. Made by `placement_group`, `get_placement_group` and `get_current_placement_group`; it may be passed to tasks and actors.

    Args:
        id: The group's id.
        bundle_cache: Its bundles, if they are known.
    """

    def __init__(self, id: PlacementGroupID, bundle_cache: list[dict[str, float]] | None = None) -> None:
        self.id = id
        self.bundle_cache = bundle_cache

    @staticmethod
    def empty() -> PlacementGroup:
        """Give the group that stands for none."""
        return PlacementGroup(PlacementGroupID.nil())

    @property
    def is_empty(self) -> bool:
        """Whether this stands for no group."""
        return self.id.is_nil()

    def ready(self) -> ObjectRef[PlacementGroup]:
        """Give a reference that becomes ready when all bundles are reserved.

        Returns:
            A reference to the group. Getting it raises `TaskPlacementGroupRemoved` if the group is removed before.

        Example:
            >>> ray.get(group.ready())
        """
        return session.auto_init().group_ready(self.id.binary(), self)

    def wait(self, timeout_seconds: float = DEFAULT_WAIT_S) -> bool:
        """Wait until all bundles are reserved.

        Args:
            timeout_seconds: For so long at most.

        Returns:
            False: the time is over.

        Raises:
            TypeError: `timeout_seconds` is no number.
            TaskPlacementGroupRemoved: The group is removed.

        Example:
            >>> group.wait(10)
            True
        """
        if not isinstance(timeout_seconds, (int, float)):
            raise TypeError(f"timeout_seconds must be a number, got {type(timeout_seconds).__name__}: {timeout_seconds!r}")
        core = session.auto_init()
        ref = core.group_ready(self.id.binary(), True)
        ready, _ = core.wait([ref], 1, timeout_seconds, True)
        try:
            return bool(ready and core.get(ready, None)[0])
        except TaskUnschedulableError:  # local mode knows at once that it never will be
            return False

    @property
    def bundle_specs(self) -> list[dict[str, float]]:
        """The resources of each bundle."""
        if self.bundle_cache is None:
            found = session.auto_init().groups(self.id.binary())
            self.bundle_cache = found[0]["bundles"] if found else []
        return self.bundle_cache

    @property
    def bundle_count(self) -> int:
        """How many bundles there are."""
        return len(self.bundle_specs)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PlacementGroup) and self.id == other.id

    def __hash__(self) -> int:
        return hash(self.id)

    def __repr__(self) -> str:
        return f"PlacementGroup({self.id.hex()})"

    def __reduce__(self) -> tuple[Any, ...]:
        return PlacementGroup, (self.id, self.bundle_cache)


def placement_group(
    bundles: list[dict[str, float]],
    strategy: str | None = None,
    name: str = "",
    lifetime: str | None = None,
    _soft_target_node_id: str | None = None,
    bundle_label_selector: list[dict[str, str]] | None = None,
    topology_strategy: dict[str, str] | None = None,
) -> PlacementGroup:
    """Create a placement group. Returns at once: `ready` and `wait` tell when its resources are reserved.

    Args:
        bundles: The resources of each bundle, such as `{"CPU": 2, "GPU": 1}`; "memory" in bytes.
        strategy: "PACK" (on few nodes, where that can be), "SPREAD" (on many), "STRICT_PACK" (on one), "STRICT_SPREAD" (no two on one node). "PACK" by default.
        name: By which `get_placement_group` finds it.
        lifetime: "detached": it outlives the job; else it ends with the job, or with the detached actor that created it.
        _soft_target_node_id: Of "STRICT_PACK": the node to try first, by its id in hex.
        bundle_label_selector: For each bundle, what the labels of its node must be, as in the option `label_selector`.
        topology_strategy: Strategies by label, in place of `strategy`: `{"rack": "STRICT_PACK"}` puts all bundles on nodes with one and the same value of the
            label "rack". One such label can be given; "ray.io/node-id" says how the bundles lie to each other within it, as `strategy` does.

    Returns:
        A handle.

    Raises:
        ValueError: Bad bundles, strategies, lifetime or selectors.
        RaySystemError: The name is taken.

    Example:
        >>> group = placement_group([{"CPU": 1}] * 4, strategy="STRICT_SPREAD")
    """
    strategy, domain = check_topology(strategy, topology_strategy)
    strategy = check_strategy(strategy or "PACK", _soft_target_node_id)
    shapes = check_bundles(bundles)
    selectors = check_selectors(bundle_label_selector, len(shapes))
    detached, soft_node, name = check_lifetime(lifetime), check_soft_node(_soft_target_node_id), check_name(name)
    core = session.auto_init()
    group_id = core.create_group(
        bundles=shapes,
        selectors=[selected("bundle_label_selector", one) for one in selectors],
        strategy=strategy,
        domain=domain,
        name=name,
        namespace=core.context()["namespace"] if name else "",
        detached=detached,
        soft_node=soft_node,
    )
    if group_id is None:
        raise RaySystemError(f"there is a placement group named {name!r} in this namespace already\nhint: get it with ray.util.get_placement_group({name!r})")
    return PlacementGroup(PlacementGroupID(group_id), shapes)


def remove_placement_group(placement_group: PlacementGroup) -> None:
    """Remove a placement group. What runs in it is ended, what waits for it fails. One that is removed already is left alone.

    Args:
        placement_group: The group.

    Example:
        >>> remove_placement_group(group)
    """
    if placement_group is None:
        raise AssertionError("remove_placement_group() takes a PlacementGroup, got None")
    session.auto_init().remove_group(placement_group.id.binary())


def get_placement_group(placement_group_name: str) -> PlacementGroup:
    """Find a placement group of this namespace by its name.

    Args:
        placement_group_name: Its name.

    Returns:
        A handle.

    Raises:
        ValueError: No name is given, or there is no such group.

    Example:
        >>> get_placement_group("training")
    """
    if not placement_group_name:
        raise ValueError("get_placement_group() takes the name of a placement group, got none")
    core = session.auto_init()
    found = core.groups(name=(core.context()["namespace"], placement_group_name))
    if not found:
        raise ValueError(f"there is no placement group named {placement_group_name!r} in this namespace\nhint: ray.util.placement_group_table() lists all")
    return PlacementGroup(PlacementGroupID(found[0]["id"]), found[0]["bundles"])


def get_current_placement_group() -> PlacementGroup | None:
    """Give the placement group in which the calling task or actor runs.

    Returns:
        A handle; None outside of one, and in the driver.

    Example:
        >>> ray.util.get_current_placement_group()
    """
    group_id = session.auto_init().context()["placement_group"]
    return PlacementGroup(PlacementGroupID(group_id)) if group_id else None


def placement_group_table(placement_group: PlacementGroup | None = None) -> dict[str, Any]:
    """Describe placement groups, those removed lately, too.

    Args:
        placement_group: The one to describe; None for all.

    Returns:
        Of one group, a dict with "placement_group_id", "name", "bundles" and "bundles_to_node_id" (by index), "strategy", "state" ("PENDING", "CREATED",
        "RESCHEDULING" or "REMOVED"), "stats" and "why" (what a group that is not placed waits for). Of all, a dict of these by id in hex.

    Example:
        >>> placement_group_table(group)["state"]
        'CREATED'
    """
    core = session.auto_init()
    if placement_group is not None:
        found = core.groups(placement_group.id.binary())
        return _described(core, found)[0] if found else {}
    return {entry["placement_group_id"]: entry for entry in _described(core, core.groups())}


def _described(core: Core, groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
    node_ids = {node["index"]: node["node_id"].hex() for node in core.nodes()}
    return [_entry(group, node_ids) for group in groups]


_SCHEDULING_STATES = {"CREATED": "FINISHED", "REMOVED": "REMOVED"}


def _entry(group: dict[str, Any], node_ids: dict[int, str]) -> dict[str, Any]:
    state = group["state"]
    return {
        "placement_group_id": group["id"].hex(),
        "name": group["name"],
        "bundles": dict(enumerate(group["bundles"])),
        "bundles_to_node_id": {at: node_ids.get(node, "") for at, node in enumerate(group["nodes"])},
        "strategy": group["strategy"],
        "state": state,
        "stats": {
            "end_to_end_creation_latency_ms": group["latency_us"] / 1000,
            "scheduling_latency_ms": group["latency_us"] / 1000,
            "scheduling_attempt": group["attempts"],
            "highest_retry_delay_ms": 0.0,
            "scheduling_state": _SCHEDULING_STATES.get(state, "INFEASIBLE" if group["infeasible"] else "NO_RESOURCES"),
        },
        "why": group["why"],
    }

"""Placement groups of local mode. There is one node and nothing is counted: a group that fits it is ready at once, another one never is."""

from __future__ import annotations

import itertools

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

_DEFAULT_PLACE = ("default",)
_ID_BYTES = 14


class LocalGroups:
    """The placement groups of a session."""

    def __init__(self, total: Mapping[str, float], labels: Mapping[str, str]) -> None:
        self._total = total
        self._labels = labels
        self._numbers = itertools.count(1)
        self._known: dict[bytes, dict[str, Any]] = {}

    def create(self, job_id: bytes, selectors: list[Any], domain: str, described: dict[str, Any]) -> bytes | None:
        """Create a group. None: the name is taken."""
        if described["name"] and self.find(None, (described["namespace"], described["name"])):
            return None
        group = next(self._numbers).to_bytes(_ID_BYTES, "big") + job_id
        why = self._why_not(described, selectors, domain)
        state = {"state": "PENDING" if why else "CREATED", "why": why, "infeasible": bool(why)}
        nodes = [None if why else 0] * len(described["bundles"])
        self._known[group] = {"id": group, **described, **state, "nodes": nodes, "latency_us": 0, "attempts": 0 if why else 1}
        return group

    def _why_not(self, described: dict[str, Any], selectors: list[Any], domain: str) -> str:
        bundles = described["bundles"]
        if described["strategy"] == "STRICT_SPREAD" and len(bundles) > 1:
            return f"STRICT_SPREAD needs {len(bundles)} different nodes, and local mode has one"
        if domain and domain not in self._labels:
            return f"its bundles go to nodes with one value of the label {domain!r}, which the node does not have"
        wanted: dict[str, float] = {}
        for bundle in bundles:
            for name, amount in bundle.items():
                wanted[name] = wanted.get(name, 0.0) + amount
        lacks = [f"{name}: asked {need:g}, there are {self._total.get(name, 0.0):g}" for name, need in wanted.items() if need > self._total.get(name, 0.0)]
        if lacks:
            return f"its bundles do not fit ({'; '.join(lacks)})"
        unmet = [key for conditions in selectors for key, values, absent in conditions if self._holds(key, values) == absent]
        return f"the node's labels do not meet what its bundles ask of {', '.join(unmet)}" if unmet else ""

    def _holds(self, key: str, values: list[str]) -> bool:
        return key in self._labels and (not values or self._labels[key] in values)

    def remove(self, group: bytes) -> None:
        """Remove a group. What runs in it goes on: nothing was set aside for it."""
        known = self._known.get(group)
        if known is not None:
            known.update(state="REMOVED", why="remove_placement_group was called", infeasible=False)

    def failure(self, group: bytes) -> tuple[str, str] | None:
        """Why a group is not ready: the code of the error and its text. None: it is."""
        known = self._known.get(group)
        if known is None or known["state"] == "REMOVED":
            return "task_group_removed", f"placement group {group.hex()} was removed, or never created"
        if known["state"] == "PENDING":
            return "unschedulable", f"placement group {group.hex()} is never ready in local mode: {known['why']}"
        return None

    def refusal(self, place: tuple[Any, ...]) -> tuple[str, str] | None:
        """Why nothing can run at a place; None if it can."""
        return self.failure(place[1]) if place[0] == "group" else None

    def find(self, group: bytes | None, name: tuple[str, str] | None) -> list[dict[str, Any]]:
        """As `Core.groups`."""
        if name is not None:
            return [one for one in self._known.values() if (one["namespace"], one["name"]) == name and one["state"] != "REMOVED"]
        if group is not None:
            return [self._known[group]] if group in self._known else []
        return list(self._known.values())

    def tell(self, group: bytes) -> str:
        """For `ray._core.why.explain`."""
        known = self._known.get(group)
        if known is None:
            return f"placement group {group.hex()} is not known: it was never created"
        state = f"placement group {group.hex()} ({known['strategy']}, {len(known['bundles'])} bundles) is {known['state']}"
        return f"{state}: {known['why']}" if known["why"] else state


def place_of(strategy: tuple[Any, ...], follows: bool, caller: tuple[Any, ...]) -> tuple[Any, ...]:
    """Give where a call is, for its context: the group that it names, or the one that captures what its caller starts."""
    if strategy[0] == "group":
        return strategy
    captures = follows and caller[0] == "group" and caller[3]
    return ("group", caller[1], -1, True) if captures else _DEFAULT_PLACE

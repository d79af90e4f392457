"""Small public helpers around the core."""

from __future__ import annotations

from typing import Any

from ray._core import session

# The function has the name of its module, so it is bound here, once the module is loaded: what is imported later would bind the module.
from ray.util.placement_group import (
    get_current_placement_group,
    get_placement_group,
    placement_group,
    placement_group_table,
    remove_placement_group,
)

__all__ = [
    "get_current_placement_group",
    "get_placement_group",
    "list_named_actors",
    "placement_group",
    "placement_group_table",
    "remove_placement_group",
]


def list_named_actors(all_namespaces: bool = False) -> list[str] | list[dict[str, Any]]:
    """List the named actors that live or wait to be started.

    Args:
        all_namespaces: Those of all namespaces instead of the job's own.

    Returns:
        Names; with `all_namespaces` dicts with "name" and "namespace".

    Example:
        >>> ray.util.list_named_actors()
        ['counter']
    """
    core = session.auto_init()
    found = core.list_named_actors(all_namespaces, core.context()["namespace"])
    if all_namespaces:
        return [{"name": name, "namespace": namespace} for namespace, name in found]
    return [name for _, name in found]

"""Small public helpers around the core, loaded at first use but for placement groups."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ray._core import session

# The function has the name of its module, so it is bound here, once the module is loaded: what is imported later would bind the module.
from ray.util.placement_group import (
    get_current_placement_group,
    get_placement_group,
    placement_group,
    placement_group_table,
    remove_placement_group,
)

if TYPE_CHECKING:
    from ray.util.actor_pool import ActorPool
    from ray.util.check_serialize import inspect_serializability
    from ray.util.completion import as_completed, map_unordered
    from ray.util.debug import disable_log_once_globally, enable_periodic_logging, log_once
    from ray.util.node import get_node_instance_id, get_node_ip_address
    from ray.util.serialization import deregister_serializer, register_serializer

__all__ = [
    "ActorPool",
    "as_completed",
    "deregister_serializer",
    "disable_log_once_globally",
    "enable_periodic_logging",
    "get_current_placement_group",
    "get_node_instance_id",
    "get_node_ip_address",
    "get_placement_group",
    "inspect_serializability",
    "list_named_actors",
    "log_once",
    "map_unordered",
    "placement_group",
    "placement_group_table",
    "register_serializer",
    "remove_placement_group",
]

_HOMES = {
    "actor_pool": ("ActorPool",),
    "check_serialize": ("inspect_serializability",),
    "completion": ("as_completed", "map_unordered"),
    "debug": ("disable_log_once_globally", "enable_periodic_logging", "log_once"),
    "node": ("get_node_instance_id", "get_node_ip_address"),
    "serialization": ("deregister_serializer", "register_serializer"),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}
_SUBMODULES = frozenset(["accelerators", "metrics", "multiprocessing", "queue", "scheduling_strategies", "state"])
"""Modules that programs reach as attributes, without an import of their own."""


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


if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        from importlib import import_module

        if name in _HOME_OF:
            value = globals()[name] = getattr(import_module(f"ray.util.{_HOME_OF[name]}"), name)
            return value
        if name in _SUBMODULES:
            return import_module(f"ray.util.{name}")
        raise AttributeError(f"module 'ray.util' has no attribute {name!r}")

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})

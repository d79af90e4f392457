"""What is known of the nodes of a cluster, as users see it."""

from __future__ import annotations

from ray._core.calls.strategies import NODE_ID_LABEL
from ray._core.cluster.address import LOOPBACK, split
from ray._core.cluster.node import NAME_LABEL

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ray._native import Core

_DEATH_UNEXPECTED = 2  # Compat: Ray's numbers of reasons; 0 is none


def described(node: dict[str, Any]) -> dict[str, Any]:
    """Describe a node with Ray's keys.

    Args:
        node: An entry of `Core.nodes`.

    Returns:
        The entry of `ray.nodes`.
    """
    ip, port = split(node["address"]) if node["address"] else (LOOPBACK, 0)
    is_alive = not node["death"]
    labels = dict(node["labels"])
    name = labels.pop(NAME_LABEL, ip)
    node_id = node["node_id"].hex()
    return {
        "NodeID": node_id,
        "Alive": is_alive,
        "NodeManagerAddress": ip,
        "NodeManagerHostname": node["host"],
        "NodeManagerPort": port,
        "ObjectManagerPort": port,
        "ObjectStoreSocketName": "",
        "RayletSocketName": "",
        "MetricsExportPort": 0,
        "MetricsAgentPort": 0,
        "DashboardAgentListenPort": 0,
        "NodeName": name,
        "RuntimeEnvAgentPort": 0,
        "DeathReason": 0 if is_alive else _DEATH_UNEXPECTED,
        "DeathReasonMessage": node["death"],
        "alive": is_alive,
        "Resources": dict(node["total"]) if is_alive else {},
        "Labels": {**labels, NODE_ID_LABEL: node_id},
    }


def head_address(core: Core) -> str:
    """Give "ip:port" of the cluster's head; "local" for a node of a program's own."""
    return next((node["address"] for node in core.nodes() if node["index"] == 0), "") or "local"

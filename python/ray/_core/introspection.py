"""`ray.nodes`, `ray.cluster_resources`, `ray.available_resources`: what the cluster consists of."""

from __future__ import annotations

from ray._core import session
from ray.exceptions import RaySystemError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ray._native import Core


def _connected(name: str) -> Core:
    """Give the engine. These calls do not start one: asking about a cluster that isn't there is a mistake."""
    if session.core is None:
        raise RaySystemError(session.why_lost() or f"ray.{name}() needs a running session\nhint: call ray.init() first")
    return session.core


def nodes() -> list[dict[str, Any]]:
    """Describe the nodes of the cluster.

    Returns:
        For each a dict with "NodeID" (hex), "Alive", "NodeManagerAddress", "NodeManagerHostname", "Resources", "Labels" and others.

    Raises:
        RaySystemError: Not connected.
    """
    import socket

    core = _connected("nodes")
    node_id = core.node_id.hex()
    current = session.current
    labels = dict((current.settings.get("labels") if current else None) or {})
    address = current.context.address_info["node_ip_address"] if current else "127.0.0.1"
    alive = core.is_alive()
    return [
        {
            "NodeID": node_id,
            "Alive": alive,
            "NodeManagerAddress": address,
            "NodeManagerHostname": socket.gethostname(),
            "NodeManagerPort": 0,
            "ObjectManagerPort": 0,
            "ObjectStoreSocketName": "",
            "RayletSocketName": "",
            "MetricsExportPort": 0,
            "NodeName": address,
            "DeathReason": 0,
            "DeathReasonMessage": "",
            "alive": alive,
            "Resources": core.resources()[0],
            "Labels": {**labels, "ray.io/node-id": node_id},
        }
    ]


def cluster_resources() -> dict[str, float]:
    """Give the resources of all nodes together.

    Returns:
        Amount by resource name; memory in bytes.

    Raises:
        RaySystemError: Not connected.
    """
    return _connected("cluster_resources").resources()[0]


def available_resources() -> dict[str, float]:
    """Give the resources that nothing holds now.

    Returns:
        Amount by resource name; memory in bytes. A resource that is used up is left out.

    Raises:
        RaySystemError: Not connected.
    """
    available = _connected("available_resources").resources()[1]
    return {name: amount for name, amount in available.items() if amount > 0}

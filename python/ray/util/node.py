"""Where this process runs: the address of its node, and the name that a cloud gave the machine."""

from __future__ import annotations

from ray._core import session
from ray._core.config import env

__all__ = ["get_node_instance_id", "get_node_ip_address"]


def get_node_ip_address(address: str | None = None) -> str:
    """Give the address of this process's node.

    Args:
        address: "ip:port" of another machine, when not connected: the address that this machine has towards that one.

    Returns:
        An IP address.

    Example:
        >>> ray.util.get_node_ip_address()
        '10.0.0.1'
    """
    from ray._core.cluster import address as addresses

    core = session.core
    if core is not None:
        own = next((node["address"] for node in core.nodes() if node["node_id"] == core.node_id), "")
        return addresses.split(own)[0] if own else "127.0.0.1"
    return addresses.own_ip_towards(addresses.split(address)[0]) if address else addresses.own_ip()


def get_node_instance_id() -> str:
    """Give the cloud's name of this machine, which whoever starts nodes may put into RAY_CLOUD_INSTANCE_ID; "" if that is not set."""
    found: str = env("RAY_CLOUD_INSTANCE_ID")
    return found

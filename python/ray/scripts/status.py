"""`ray status`: the nodes of a cluster and what of them is in use. Other programs read the text, so its headings and lines have Ray's form."""

from __future__ import annotations

import datetime

import click

from ray._core.cluster.address import node_of_cluster, split
from ray._core.config import env

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any

    Node = Mapping[str, Any]

_RULE = "-" * 63
_BYTES = ("memory", "object_store_memory")
_HIDDEN = "node:"
"""Resources by which one node is meant: each is there once and says nothing."""


@click.command()
@click.option("--address", help="The cluster, as host:port of its head. Default: RAY_ADDRESS, or the youngest cluster of yours with a node on this machine.")
@click.option("-v", "--verbose", is_flag=True, help="Tell what is in use on each node.")
def status(address: str | None, verbose: bool) -> None:
    """Show the nodes of a cluster and what of them is in use."""
    from ray import _native

    try:
        found = node_of_cluster(address or env("RAY_ADDRESS") or "auto")
        nodes = _native.Core.observe(found.name).nodes()
    except (OSError, ValueError, RuntimeError) as error:
        raise click.ClickException(str(error)) from error
    click.echo(status_text(nodes, datetime.datetime.now(), verbose))


def status_text(nodes: Iterable[Node], now: datetime.datetime, verbose: bool = False) -> str:
    """Write down how a cluster stands.

    Args:
        nodes: Entries of `Core.nodes`.
        now: What the heading says.
        verbose: Also each node by itself.

    Returns:
        The text.
    """
    alive = [node for node in nodes if not node["death"]]
    dead = [node for node in nodes if node["death"]]
    waiting = sum(node["waiting"] for node in alive)
    lines = [
        f"======== Autoscaler status: {now:%Y-%m-%d %H:%M:%S.%f} ========",
        "Node status",
        _RULE,
        "Active:",
        *([f" 1 node_{node['node_id'].hex()}" for node in alive] or [" (no active nodes)"]),
        "Pending:",
        " (no pending nodes)",
        "Recent failures:",
        *([f" {_place(node)}: {_one_line(node['death'])}" for node in dead] or [" (no failures)"]),
        "",
        "Resources",
        _RULE,
        "Total Usage:",
        *_usage(alive, " "),
        "",
        "From request_resources:",
        " (none)",
        "Pending Demands:",
        # What the calls ask for is known to their owners only.
        f" {{...}}: {waiting}+ pending tasks/actors (ray why tells what they wait for)" if waiting else " (no resource demands)",
    ]
    for node in alive if verbose else ():
        lines += ["", f"Node: {_place(node)} (node_{node['node_id'].hex()})", " Usage:", *_usage([node], "  ")]
    return "\n".join(lines)


def _place(node: Node) -> str:
    return split(node["address"])[0] if node["address"] else str(node["host"])


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _usage(nodes: Iterable[Node], indent: str) -> list[str]:
    total: dict[str, float] = {}
    used: dict[str, float] = {}
    for node in nodes:
        for name, amount in node["total"].items():
            total[name] = total.get(name, 0.0) + amount
            used[name] = used.get(name, 0.0) + amount - node["available"].get(name, 0.0)
        if "object_store_memory" in node["total"]:
            used["object_store_memory"] += node["store_used"] - (node["total"]["object_store_memory"] - node["available"].get("object_store_memory", 0.0))
    shown = sorted(name for name in total if not name.startswith(_HIDDEN))
    return [f"{indent}{_amount(name, used[name])}/{_amount(name, total[name])} {name}" for name in shown] or [f"{indent}(no resources)"]


def _amount(name: str, amount: float) -> str:
    if name not in _BYTES:
        return str(round(amount, 4) + 0.0)
    for unit, size in (("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if amount >= size:
            return f"{amount / size:.2f}{unit}"
    return f"{int(amount)}B"

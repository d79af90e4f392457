"""`ray stop`: ends the standing nodes of this user on this machine, and never the session of a program that called `ray.init()`."""

from __future__ import annotations

import click

from ray._core.cluster import door
from ray._core.cluster.ending import daemon_behind, end
from ray.scripts.look import look_options

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ray._core.cluster.door import Door
    from ray._core.cluster.ending import Daemon

GRACE_S = 16
"""Compat: Ray's."""


@click.command()
@click.option("-f", "--force", is_flag=True, help="Kill the nodes at once, without asking.")
@click.option(
    "-g", "--grace-period", type=click.IntRange(min=0), default=GRACE_S, show_default=True, help="Seconds that nodes get to end before they are killed."
)
@look_options
def stop(force: bool, grace_period: int, **_look: object) -> None:
    """End the nodes that you started on this machine with `ray start`, or in a program with ray.cluster_utils."""
    found = [(one, daemon) for one in door.clusters() if (daemon := daemon_behind(one.name)) is not None]
    if not found:
        click.echo("no node of yours runs on this machine")
        return
    # Heads last: the others say goodbye to them.
    for group in ([pair for pair in found if not pair[0].is_head], [pair for pair in found if pair[0].is_head]):
        killed = end([daemon for _, daemon in group], "ray stop", grace_period, force)
        for one, daemon in group:
            click.echo(_outcome(one, daemon, daemon in killed and not force, force))
    left = [daemon.pid for _, daemon in found if daemon.is_alive()]
    if left:
        raise click.ClickException(f"still there, although killed: {', '.join(map(str, left))}")


def _outcome(one: Door, daemon: Daemon, was_late: bool, force: bool) -> str:
    what = "the head" if one.is_head else "a node"
    how = "killed" if force else "killed, since it did not end in time" if was_late else "stopped"
    return f"{how}: {what} of the cluster at {one.head} (pid {daemon.pid})"

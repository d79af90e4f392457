"""`ray timeline`: a trace of what ran where and when."""

from __future__ import annotations

import datetime
import json
import os
import tempfile

import click

from ray._core.cluster.address import node_of_cluster
from ray._core.cluster.door import everything
from ray._core.config import env

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ray._core.cluster.door import Door


@click.command()
@click.option("--address", help="The cluster, as host:port of its head. Default: RAY_ADDRESS, or the youngest session of yours on this machine.")
def timeline(address: str | None) -> None:
    """Write a trace of the calls of a cluster to a file, for chrome://tracing or ui.perfetto.dev."""
    from ray import _native
    from ray._core.cluster.timeline import timeline_of

    try:
        found = _found(address or env("RAY_ADDRESS"))
        events = timeline_of(_native.Core.observe(found.name))
        path = os.path.join(tempfile.gettempdir(), f"ray-timeline-{datetime.datetime.now():%Y-%m-%d_%H-%M-%S}.json")
        with open(path, "w", encoding="utf-8") as file:
            json.dump(events, file)
    except (OSError, ValueError, RuntimeError) as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"Trace file written to {path} ({os.path.getsize(path)} bytes).")
    click.echo("You can open this with chrome://tracing in the Chrome browser, or at ui.perfetto.dev.")


def _found(address: str) -> Door:
    if address:
        return node_of_cluster(address)
    running = everything()
    if not running:
        raise ConnectionError("no session of yours is running on this machine\nhint: start one with ray start --head, or name another with --address")
    return running[-1]

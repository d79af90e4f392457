"""`ray start`: a node that stays when the command ends, as the head of a new cluster or as a part of one."""

from __future__ import annotations

import os
import signal
import sys

import click

from ray._core.cluster import address as addresses
from ray._core.cluster import token
from ray._core.cluster.ending import Daemon, end
from ray._core.cluster.node import NodeOptions, StartedNode, last_words
from ray._core.cluster.node import start as start_node
from ray.exceptions import AuthenticationError
from ray.scripts.look import look_options
from ray.scripts.start_options import idle_options, json_object, notes_on_idle, read_labels
from ray.scripts.stop import GRACE_S

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn


@click.command()
@click.option("--head", is_flag=True, help="Start a new cluster; this node is its head.")
@click.option("--address", help="The cluster to join, as host:port of its head; auto for one that has a node on this machine.")
@click.option("--port", type=click.IntRange(0, 65535), help=f"Port of the head. Default: {addresses.DEFAULT_PORT} if it is free, else any; 0 for any.")
@click.option("--node-ip-address", help="Where other nodes reach this one. Default: the ip of the default route.")
@click.option("--node-manager-port", type=click.IntRange(0, 65535), default=0, help="Port of a node that joins. Default: any.")
@click.option("--node-name", help="Name of the node.", hidden=True)
@click.option("--num-cpus", type=click.IntRange(min=0), help="CPUs to offer. Default: those that this process may use.")
@click.option("--num-gpus", type=click.IntRange(min=0), help="GPUs to offer. Default: those that are visible.")
@click.option("--memory", type=click.IntRange(min=0), help="Bytes to offer to tasks and actors.", hidden=True)
@click.option("--object-store-memory", type=click.IntRange(min=0), help="Bytes of the object store. Default: 30 % of the memory.")
@click.option("--resources", default="{}", help="Custom resources and their amounts, as JSON.")
@click.option("--labels", default="", help='Labels of the node, as "key=value,key2=value2".', hidden=True)
@click.option("--labels-file", default="", help='A file of labels: lines "key: value", or JSON.', hidden=True)
@click.option("--temp-dir", help="Folder for the folder of the node, where its log is. Default: /tmp/ray.")
@click.option("--object-spilling-directory", help="Where objects go when the store is full. Default: the disk of the node's folder.")
@click.option("--system-config", help="Settings of the engine, as JSON.", hidden=True)
@click.option("--block", is_flag=True, help="Stay until the node ends. Ctrl-C and SIGTERM end the node.")
@idle_options
@look_options
@click.pass_context
def start(context: click.Context, /, **given: Any) -> None:
    """Start a node on this machine. It stays until `ray stop`.

    The first one of a cluster: ray start --head. It prints what to run on other machines.
    """
    try:
        _check(given)
        secret, made = token.load_or_create() if given["head"] else (token.required(), "")
        options = _node_options(given, secret)
        for note in notes_on_idle(context):
            click.echo(note, err=True)
        node = _start_and_stay(options, made) if given["block"] else start_node(options)
    except (AuthenticationError, OSError, RuntimeError, TypeError, ValueError) as error:
        raise click.ClickException(str(error)) from error
    click.echo(started_text(node, options, made))


def _check(given: dict[str, Any]) -> None:
    if given["head"] and given["address"]:
        raise click.UsageError("--head starts a new cluster and --address joins one: give one of them")
    if not given["head"] and not given["address"]:
        raise click.UsageError("give --head to start a new cluster, or --address=host:port to join one")
    if given["port"] is not None and not given["head"]:
        raise click.UsageError("--port is the head's; a node that joins listens at --node-manager-port, by default anywhere")


def _node_options(given: dict[str, Any], secret: str) -> NodeOptions:
    is_head = given["head"]
    head = "" if is_head else _canonical(given["address"])
    asked = given["port"] if is_head else given["node_manager_port"]
    return NodeOptions(
        num_cpus=given["num_cpus"],
        num_gpus=given["num_gpus"],
        memory=given["memory"],
        object_store_memory=given["object_store_memory"],
        resources=json_object("--resources", given["resources"]),
        labels=read_labels(given["labels"], given["labels_file"]),
        name=given["node_name"] or "",
        system_config=json_object("--system-config", given["system_config"] or "{}"),
        temp_dir=given["temp_dir"],
        spilling_directory=given["object_spilling_directory"],
        ip=_ip(given["node_ip_address"], head),
        port=addresses.DEFAULT_PORT if is_head and asked is None else asked or 0,
        is_port_exact=bool(asked),
        head=head,
        token=secret,
        sys_path=tuple(_own_import_path()),
    )


def _canonical(text: str) -> str:
    """The head's address as its own nodes write it, if one is on this machine; else with an ip in place of the name."""
    if text == "auto":
        return str(addresses.node_of_cluster(text).head)
    host, port = addresses.split(text)
    ips = addresses.resolve(host)
    if any(map(addresses.is_own, ips)):
        try:
            return str(addresses.node_of_cluster(text).head)
        except ConnectionError:  # another user's: the head itself says more
            pass
    return addresses.join(ips[0], port)


def _ip(given: str | None, head: str) -> str:
    if given:
        return addresses.resolve(given)[0]
    if head:
        ip = addresses.split(head)[0]
        return addresses.own_ip_towards(ip)
    return addresses.own_ip()


def _own_import_path() -> list[str]:
    """Where the node's own Python looks for modules: as this one, but not in the folder of the command. Jobs bring their own."""
    from ray._core.launch import import_path

    path = import_path()
    started_from = os.path.dirname(os.path.abspath(sys.argv[0]))
    kept = [folder for folder in path if folder != started_from or os.path.isdir(os.path.join(folder, "ray"))]
    return kept or path


def started_text(node: StartedNode, options: NodeOptions, token_file: str) -> str:
    """Say what was started and how to go on.

    Args:
        node: The node.
        options: What it was to be.
        token_file: Where a token was kept that was made now, else "".

    Returns:
        Lines for a terminal.
    """
    is_head = not options.head
    what = "It is the head of a new cluster." if is_head else f"It is a part of the cluster at {node.head}."
    lines = [f"Started a node at {node.address} (pid {node.pid}). {what}", f"Its log: {node.log}"]
    if token_file:
        lines.append(f"Made a token, the secret that the nodes of your clusters share: {token_file}")
    if is_head:
        lines += [
            "",
            "To add another machine, run there:",
            f"  ray start --address='{node.head}'",
            "It needs the same token: copy ~/.ray/auth_token there and chmod 600 it, or set",
            "RAY_AUTH_TOKEN there to what `ray get-auth-token` prints here.",
        ]
    lines += [
        "",
        "To use the cluster from a program on this machine:",
        "  import ray",
        f"  ray.init()                          # or address={node.head!r}",
        "",
        "To see it: ray status. To stop this node: ray stop.",
    ]
    return "\n".join(lines)


# Staying


class _AskedToEnd(KeyboardInterrupt):
    """A signal came that asks this command to end."""


def _on_signal(*_: object) -> NoReturn:
    raise _AskedToEnd


def _start_and_stay(options: NodeOptions, token_file: str) -> NoReturn:
    """Start a node, and end with it. The exit code is 0 if somebody wanted it to end."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if number == signal.SIGINT or signal.getsignal(number) is not signal.SIG_IGN:  # nohup
            signal.signal(number, _on_signal)
    node, daemon = None, None
    try:
        node = start_node(options)
        daemon = Daemon(node.pid, node.door)
        click.echo(started_text(node, options, token_file))
        click.echo("\nThis command stays until the node ends. Ctrl-C ends the node.")
        sys.stdout.flush()
        daemon.wait(None)
    except _AskedToEnd:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)  # the node is ending: a second one would only leave it alone
        if node is not None:
            _end_asked(daemon or Daemon(node.pid, node.door))
        sys.exit(0)
    if daemon.status == 0:
        click.echo("The node has ended, as it was asked to.")
        sys.exit(0)
    words = last_words(node.log)
    how = "" if daemon.status is None else f" ({_status_text(daemon.status)})"
    click.echo(f"The node has ended by itself{how}." + (f" Its last words:\n{words}" if words else f" It left no word in {node.log}."), err=True)
    sys.exit(1)


def _end_asked(daemon: Daemon) -> None:
    killed = end([daemon], "the command that started it was asked to end", GRACE_S)
    click.echo(f"The node did not end within {GRACE_S} s, and was killed." if killed else "The node has ended.")


def _status_text(status: int) -> str:
    return f"exit code {status}" if status >= 0 else f"signal {-status}"

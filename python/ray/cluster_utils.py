"""Several nodes on one machine, for tests: each with a daemon, workers and memory of its own, and a loopback port.

Example:
    >>> cluster = Cluster(initialize_head=True, connect=True, head_node_args={"num_cpus": 1})
    >>> other = cluster.add_node(num_cpus=2)
    >>> cluster.remove_node(other, allow_graceful=False)  # as if its machine had lost power
    >>> ray.shutdown()
    >>> cluster.shutdown()
"""

from __future__ import annotations

import atexit
import os
import time
from typing import TYPE_CHECKING, Any

from ray._core import session
from ray._core.cluster import token
from ray._core.cluster.address import split
from ray._core.cluster.ending import Daemon, end
from ray._core.cluster.node import NodeOptions, StartedNode, remove_session_dir
from ray._core.cluster.node import start as start_node

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ray._core.launch import RayContext

__all__ = ["Cluster", "ClusterNode"]

GRACE_S = 10.0
"""Seconds that a node gets to end before it is killed."""
_STORE_BYTES = 150 * 1024 * 1024  # Compat: Ray's default here, as is that of one CPU and no GPU
_PAUSE_S = 0.01
_ARGUMENTS = {
    # argument of `add_node`: field of NodeOptions
    "num_cpus": "num_cpus",
    "num_gpus": "num_gpus",
    "memory": "memory",
    "object_store_memory": "object_store_memory",
    "resources": "resources",
    "labels": "labels",
    "node_name": "name",
    "_system_config": "system_config",
    "temp_dir": "temp_dir",
    "object_spilling_directory": "spilling_directory",
}
_WITHOUT_EFFECT = frozenset(
    ["env_vars", "include_dashboard", "dashboard_host", "dashboard_port", "min_worker_port", "max_worker_port", "metrics_export_port", "redirect_output"]
    + ["node_ip_address", "node_manager_port", "object_manager_port", "ray_client_server_port", "enable_object_reconstruction", "shutdown_at_exit"]
    + ["dashboard_agent_listen_port", "worker_port_list", "spawn_reaper", "log_to_driver", "redis_password", "plasma_directory"]
)


class ClusterNode:
    """One node of a `Cluster`.

    Attributes:
        head: Whether it is the head's own node.
    """

    def __init__(self, started: StartedNode, head: bool) -> None:
        self._started = started
        self._daemon = Daemon(started.pid, started.door)
        self.head = head

    @property
    def node_id(self) -> str:
        """Its id in hex, as in `ray.nodes()`."""
        return self._started.node_id

    @property
    def unique_id(self) -> str:
        """The same as `node_id`. Compat: Ray has both names."""
        return self._started.node_id

    @property
    def address(self) -> str:
        """ "ip:port" of the cluster's head. Compat: what Ray means by it; the node's own is `node_address`."""
        return self._started.head

    @property
    def gcs_address(self) -> str:
        """ "ip:port" of the cluster's head."""
        return self._started.head

    @property
    def node_address(self) -> str:
        """ "ip:port" where other nodes reach this one."""
        return self._started.address

    @property
    def node_ip_address(self) -> str:
        """Where other nodes reach this one."""
        return split(self._started.address)[0]

    @property
    def node_manager_port(self) -> int:
        """The port where other nodes reach this one."""
        return split(self._started.address)[1]

    @property
    def pid(self) -> int:
        """The daemon's."""
        return self._started.pid

    @property
    def door(self) -> str:
        """Name of the socket through which programs of this machine reach it."""
        return self._started.door

    @property
    def log(self) -> str:
        """The file for what the daemon itself says."""
        return self._started.log

    def get_session_dir_path(self) -> str:
        """Its folder."""
        return self._started.session_dir

    def any_processes_alive(self) -> bool:
        """Whether the daemon runs. Its workers end with it."""
        return self._daemon.is_alive()

    def remaining_processes_alive(self) -> bool:
        """The same."""
        return self._daemon.is_alive()

    def kill_raylet(self, check_alive: bool = True) -> None:
        """Kill the daemon, as if the machine had lost power.

        Args:
            check_alive: Raise if it has ended already.

        Raises:
            RuntimeError: It has ended already.
        """
        self.kill_all_processes(check_alive, allow_graceful=False)

    def kill_all_processes(self, check_alive: bool = True, allow_graceful: bool = False, wait: bool = True) -> None:  # noqa: ARG002  it always waits
        """End the node, and wait until it has ended.

        Args:
            check_alive: Raise if it has ended already.
            allow_graceful: Ask it, and kill it only if it does not listen.
            wait: Kept for compatibility.

        Raises:
            RuntimeError: It has ended already.
        """
        if not self._daemon.is_alive():
            if check_alive:
                raise RuntimeError(f"{self!r} has ended already")
        else:
            end([self._daemon], "removed from its test cluster", GRACE_S, force=not allow_graceful)

    def forget(self) -> None:
        """Let go of what is left of an ended node."""
        self._daemon.close()
        remove_session_dir(self._started.session_dir)

    def __repr__(self) -> str:
        return f"ClusterNode({self.node_id[:12]}.., {self.node_address}, pid {self.pid}{', head' if self.head else ''})"


class Cluster:
    """A cluster of nodes on this machine. Nobody else joins it: its token is fresh, and kept nowhere.

    Args:
        initialize_head: Start the head now.
        connect: Connect this program to it.
        head_node_args: Arguments of `add_node` for the head.
        shutdown_at_exit: End the nodes when the interpreter exits.

    Raises:
        RuntimeError: `connect` without `initialize_head`.
    """

    def __init__(
        self, initialize_head: bool = False, connect: bool = False, head_node_args: dict[str, Any] | None = None, shutdown_at_exit: bool = True
    ) -> None:
        if connect and not initialize_head:
            raise RuntimeError("there is nothing to connect to: the cluster has no head yet\nhint: pass initialize_head=True, too")
        self.head_node: ClusterNode | None = None
        self.worker_nodes: set[ClusterNode] = set()
        self.connected = False
        self._token = token.fresh()
        self._pid = os.getpid()
        if shutdown_at_exit:
            atexit.register(self.shutdown)
        if initialize_head:
            self.add_node(**(head_node_args or {}))
        if connect:
            self.connect()

    @property
    def address(self) -> str:
        """ "ip:port" of the head, for `ray.init(address=...)`.

        Raises:
            RuntimeError: There is no head.
        """
        return self._head().address

    @property
    def gcs_address(self) -> str | None:
        """ "ip:port" of the head; None if there is none."""
        return None if self.head_node is None else self.head_node.gcs_address

    def _head(self) -> ClusterNode:
        if self.head_node is None:
            raise RuntimeError("the cluster has no head\nhint: the first add_node() starts it")
        return self.head_node

    def connect(self, namespace: str | None = None) -> RayContext:
        """Connect this program, through the head's node.

        Args:
            namespace: Namespace of the job.

        Returns:
            What `ray.init` returns.
        """
        context = session.init(self.address, namespace=namespace, ignore_reinit_error=True)
        self.connected = True
        return context

    def add_node(self, wait: bool = True, **node_args: Any) -> ClusterNode:
        """Start a node. The first one is the head.

        Args:
            wait: Return only when the head knows the node.
            **node_args: `num_cpus` (default 1), `num_gpus` (0), `memory`, `object_store_memory` (150 MiB), `resources`, `labels`, `node_name`,
                `_system_config`, `temp_dir`, `object_spilling_directory`. Others of Ray's are accepted, without effect.

        Returns:
            The node.

        Raises:
            ValueError: An unknown argument, or a bad value.
            RuntimeError: The node did not start.
        """
        unknown = sorted(node_args.keys() - _ARGUMENTS.keys() - _WITHOUT_EFFECT)
        if unknown:
            raise ValueError(f"add_node() has no argument {', '.join(unknown)}\nhint: it takes {', '.join(_ARGUMENTS)}")
        given = {_ARGUMENTS[name]: value for name, value in node_args.items() if name in _ARGUMENTS and value is not None}
        defaults: dict[str, Any] = {"num_cpus": 1, "num_gpus": 0, "object_store_memory": _STORE_BYTES}
        head = "" if self.head_node is None else self.address
        node = ClusterNode(start_node(NodeOptions(**{**defaults, **given}, head=head, token=self._token, is_programs_own=True)), head == "")
        if self.head_node is None:
            self.head_node = node
        else:
            self.worker_nodes.add(node)
        if wait:
            self._wait_until(lambda alive: node.node_id in alive, 30.0, f"the head does not know {node!r}")
        return node

    def remove_node(self, node: ClusterNode, allow_graceful: bool = True) -> None:
        """End a node, and wait until it has ended.

        Args:
            node: The node.
            allow_graceful: Ask it to end. Otherwise it is killed, as if its machine had lost power.

        Raises:
            ValueError: It is no node of this cluster.
            RuntimeError: This program is connected to that very node.
        """
        if node is not self.head_node and node not in self.worker_nodes:
            raise ValueError(f"{node!r} is no node of this cluster, or was removed before")
        current = session.current
        if current is not None and current.context.address_info["node_id"] == node.node_id:
            raise RuntimeError("this program is connected to that node, and would go down with it\nhint: call ray.shutdown() first, or remove another node")
        node.kill_all_processes(check_alive=False, allow_graceful=allow_graceful)
        node.forget()
        if node is self.head_node:
            self.head_node = None
        self.worker_nodes.discard(node)

    def list_all_nodes(self) -> list[ClusterNode]:
        """Every node that was added and not removed, the head first."""
        return [*([] if self.head_node is None else [self.head_node]), *self.worker_nodes]

    def wait_for_nodes(self, timeout: float = 30) -> None:
        """Wait until the head's list of living nodes is that of this object.

        Args:
            timeout: Seconds.

        Raises:
            TimeoutError: It is not within that time.
        """
        expected = {node.node_id for node in self.list_all_nodes()}
        self._wait_until(lambda alive: alive == expected, timeout, f"the head does not list exactly the {len(expected)} nodes of this cluster")

    def _wait_until(self, holds: Any, timeout_s: float, otherwise: str) -> None:
        from ray import _native

        core = _native.Core.observe(self._head().door)
        try:
            deadline = time.monotonic() + timeout_s
            while not holds(alive := {node["node_id"].hex() for node in core.nodes() if not node["death"]}):
                if time.monotonic() >= deadline:
                    raise TimeoutError(f"{otherwise} after {timeout_s:g} s; it lists {len(alive)}: {', '.join(sorted(one[:12] for one in alive))}")
                time.sleep(_PAUSE_S)
        finally:
            core.shutdown(exiting=False)

    def remaining_processes_alive(self) -> bool:
        """Whether the daemons of all nodes run."""
        return all(node.remaining_processes_alive() for node in self.list_all_nodes())

    def shutdown(self) -> None:
        """End all nodes, the head last. Idempotent. A program that is connected should call `ray.shutdown()` before."""
        if os.getpid() != self._pid:  # a fork of the program: the nodes are not its own
            return
        workers, head = list(self.worker_nodes), self.head_node
        self.worker_nodes, self.head_node = set(), None
        _end_all(workers)
        _end_all([head] if head else [])
        atexit.unregister(self.shutdown)


def _end_all(nodes: Iterable[ClusterNode]) -> None:
    living = [node for node in nodes if node.any_processes_alive()]
    end([node._daemon for node in living], "its test cluster is shut down", GRACE_S)
    for node in nodes:
        node.forget()

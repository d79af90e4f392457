"""Clusters of several nodes on this machine, made as users make them: with `ray.cluster_utils.Cluster`."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support.processes import is_alive
from support.runtime import is_own
from support.waiting import wait_for

HEAD = "head"
DEATH_S = 5.0  # a node is known to be dead by then


@dataclass(frozen=True)
class Node:
    """A node of a test's cluster. `tag` is the name of a resource that only it has."""

    handle: Any
    id: str
    pid: int
    tag: str


class Nodes:
    """A head of one CPU with the resource "head", this process as its driver, and the nodes that tests add and take away."""

    def __init__(self, **head: Any) -> None:
        self._head_options = {"num_cpus": 1, "resources": {HEAD: 100}, **head}
        self.added: list[Node] = []
        self.start()

    def start(self) -> None:
        import ray
        from ray.cluster_utils import Cluster

        self.cluster = Cluster(initialize_head=True, head_node_args=self._head_options)
        ray.init(address=self.cluster.address, log_to_driver=False)
        (self.head_id,) = alive()

    @property
    def address(self) -> str:
        return str(self.cluster.address)

    def add(self, tag: str, **options: Any) -> Node:
        """Start a node and wait until it is a member that work is sent to."""
        import ray

        before = alive()
        handle = self.cluster.add_node(**{"num_cpus": 1, **options, "resources": {tag: 100, **options.get("resources", {})}})
        (found,) = wait_for(lambda: alive() - before, 10.0, f"{tag} among the nodes")
        node = Node(handle, found, daemon_pid(handle), tag)
        self.added.append(node)
        ray.get(on(ray.remote(num_cpus=0)(_nothing), tag).remote(), timeout=10)
        return node

    def kill(self, node: Node) -> float:
        """SIGKILL of the node's daemon; returns the moment on the monotonic clock."""
        moment = time.monotonic()
        self.cluster.remove_node(node.handle, allow_graceful=False)
        self.added.remove(node)
        return moment

    def remove(self, node: Node) -> None:
        """Take the node away if it is still there."""
        if node in self.added:
            if is_alive(node.pid):
                os.kill(node.pid, signal.SIGCONT)
            self.cluster.remove_node(node.handle)
            self.added.remove(node)

    def restore(self) -> None:
        """Back to the head alone; everything anew if a test has broken it."""
        import ray

        for node in list(self.added):
            self.remove(node)
        try:
            wait_for(lambda: alive() == {self.head_id}, 10.0, "only the head")
            ray.get(ray.remote(num_cpus=0)(_nothing).remote(), timeout=5)
        except (AssertionError, ray.exceptions.RayError):
            self.close()
            self.start()

    def close(self) -> None:
        import ray

        ray.shutdown()
        self.cluster.shutdown()


def _nothing() -> None:
    return None


def daemon_pid(handle: Any) -> int:
    return int(handle.pid if is_own() else handle.all_processes["raylet"][0].process.pid)


def alive() -> set[str]:
    """The ids of the nodes that are members now."""
    import ray

    return {node["NodeID"] for node in ray.nodes() if node["Alive"]}


def loopback_bytes() -> int:
    """What went over the machine's loopback so far, where all nodes of a `Cluster` talk to each other."""
    line = next(line for line in Path("/proc/net/dev").read_text().splitlines() if line.strip().startswith("lo:"))
    return int(line.split(":")[1].split()[0])


def address_of(node_id: str) -> tuple[str, int]:
    """Where the node listens."""
    import ray

    node = next(node for node in ray.nodes() if node["NodeID"] == node_id)
    return str(node["NodeManagerAddress"]), int(node["NodeManagerPort"])


def on(function: Any, node: Node | str, **options: Any) -> Any:
    """The remote function or class, to run on this node only. (A string is a tag.)"""
    tag = node if isinstance(node, str) else node.tag
    return function.options(**options, resources={tag: 0.001})


def near(function: Any, node: Node, **options: Any) -> Any:
    """The remote function or class, to run on this node as long as it lives."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return function.options(**options, scheduling_strategy=NodeAffinitySchedulingStrategy(node.id, soft=True))


def here() -> str:
    """The id of the node where this is called."""
    import ray

    return str(ray.get_runtime_context().get_node_id())


def wait_until_dead(node: Node, timeout_s: float = 2 * DEATH_S) -> None:
    wait_for(lambda: node.id not in alive(), timeout_s, f"{node.tag} declared dead")


def stored_bytes() -> float:
    """What all nodes' stores hold now."""
    import ray

    total, free = ray.cluster_resources(), ray.available_resources()
    return float(total.get("object_store_memory", 0) - free.get("object_store_memory", 0))


def wait_until_free(timeout_s: float = 25.0) -> None:
    """Wait until no store holds a byte and this process knows no object and no call. Copies and empty extents stay for ten seconds, and are looked for every five."""
    import gc

    gc.collect()
    wait_for(lambda: stored_bytes() == 0, timeout_s, "every store empty")
    if is_own():
        from ray._core import session

        core: Any = session.core
        wait_for(lambda: not any(core.table_sizes()), timeout_s, "no object, call, lease or wait known")


@contextmanager
def stopped(pid: int, for_s: float) -> Iterator[None]:
    """SIGSTOP a process now, and SIGCONT it `for_s` seconds later, whatever happens meanwhile. Leaving the block waits for that."""
    os.kill(pid, signal.SIGSTOP)
    timer = threading.Timer(for_s, resume, [pid])
    timer.start()
    try:
        yield
    finally:
        timer.join()


def resume(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGCONT)
    except ProcessLookupError:
        return

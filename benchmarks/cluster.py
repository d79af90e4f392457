"""Several nodes on one machine, through `ray.cluster_utils.Cluster`. usage: cluster.py [--only a,b] [--skip a,b]

A head with the driver, and up to three nodes of one CPU each. Transfers are given against a plain TCP stream between two processes, measured in the same run.
"""

import multiprocessing
import os
import socket
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

import harness

GIB = 1 << 30
LARGE = 100_000_000
MEDIUM = 200_000
DEADLINE_S = 120.0


class Nodes:
    """The cluster of a section. Nodes are called 1, 2, 3; each has the resources n1, n2, n3 and, but for the last, `pair`."""

    def __init__(self, count: int) -> None:
        import ray
        from ray.cluster_utils import Cluster

        self.ray = ray
        started = time.perf_counter()
        self.cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": GIB})
        self.head_s = time.perf_counter() - started
        ray.init(address=self.cluster.address, log_to_driver=False, logging_level="ERROR")
        self.handles: list[Any] = []
        self.ids: list[str] = []
        self.joins_s = [self.join() for _ in range(count)]

    def join(self) -> float:
        """Add a node; returns the seconds until it is a member."""
        before, number = self.alive(), len(self.handles) + 1
        started = time.perf_counter()
        resources = {f"n{number}": 10, **({"pair": 1} if number < 3 else {})}
        self.handles.append(self.cluster.add_node(num_cpus=1, resources=resources, object_store_memory=GIB))
        wait(lambda: len(self.alive()) > len(before))
        taken_s = time.perf_counter() - started
        self.ids += self.alive() - before
        return taken_s

    def alive(self) -> set[str]:
        return {node["NodeID"] for node in self.ray.nodes() if node["Alive"]}

    def warm(self) -> None:
        """A worker on every node."""
        for number in range(1, len(self.handles) + 1):
            self.ray.get([on(nothing(self.ray), number).remote() for _ in range(5)])

    def close(self) -> float:
        started = time.perf_counter()
        self.ray.shutdown()
        self.cluster.shutdown()
        return time.perf_counter() - started


def wait(condition: Callable[[], bool]) -> None:
    deadline = time.perf_counter() + DEADLINE_S
    while not condition():
        if time.perf_counter() > deadline:
            raise TimeoutError
        time.sleep(0.005)


def nothing(ray: Any) -> Any:
    return ray.remote(num_cpus=0)(lambda: b"ok")


def on(function: Any, number: int) -> Any:
    return function.options(resources={f"n{number}": 0.01})


def joining() -> None:
    """How soon a head is there, and another node; how soon all are gone."""
    nodes = Nodes(3)
    harness.emit("cluster_head_start", nodes.head_s, "s", better="lower")
    harness.emit("cluster_node_add", statistics.median(nodes.joins_s), "s", better="lower")
    nodes.warm()
    harness.emit("cluster_shutdown", nodes.close(), "s", better="lower")


def remote_tasks() -> None:
    nodes = Nodes(3)
    nodes.warm()
    ray, task = nodes.ray, nothing(nodes.ray)
    one = on(task, 1)
    harness.emit("cluster_remote_task_sync", harness.rate(lambda: ray.get(one.remote())), "tasks/s", better="higher")
    harness.emit("cluster_remote_tasks_async_1000", harness.rate(lambda: ray.get([one.remote() for _ in range(1000)]), 1000), "tasks/s", better="higher")
    spread = task.options(scheduling_strategy="SPREAD")
    spread_rate = harness.rate(lambda: ray.get([spread.remote() for _ in range(1000)]), 1000, window_s=1.0)
    harness.emit("cluster_spread_tasks_async_1000", spread_rate, "tasks/s", better="higher")
    nodes.close()


def remote_actors() -> None:
    nodes = Nodes(1)
    ray = nodes.ray

    @ray.remote(num_cpus=0)
    class Counter:
        def __init__(self) -> None:
            self.value = 0

        def add(self) -> int:
            self.value += 1
            return self.value

    counter = on(Counter, 1).remote()
    harness.emit("cluster_remote_actor_sync", harness.rate(lambda: ray.get(counter.add.remote())), "calls/s", better="higher")
    thousand_rate = harness.rate(lambda: ray.get([counter.add.remote() for _ in range(1000)]), 1000)
    harness.emit("cluster_remote_actor_async_1000", thousand_rate, "calls/s", better="higher")
    nodes.close()


def transfers() -> None:
    """From node 1 to node 2, timed by the reader; and from the driver to three at once."""
    nodes = Nodes(3)
    nodes.warm()
    ray = nodes.ray
    stream = tcp_stream()
    harness.emit("reference_tcp_stream", stream, "GB/s", better="higher")

    @ray.remote(num_cpus=0)
    def make(size_bytes: int, seed: int) -> Any:
        return np.random.default_rng(seed).integers(0, 255, size_bytes, dtype=np.uint8)

    @ray.remote(num_cpus=0)
    def read(box: list[Any]) -> tuple[float, int]:
        started = time.perf_counter()
        value = ray.get(box[0])
        int(value[-1])
        return time.perf_counter() - started, value.nbytes

    def one(size_bytes: int, seed: int) -> float:
        ref = on(make, 1).remote(size_bytes, seed)
        ray.wait([ref], fetch_local=False)
        taken_s, got_bytes = ray.get(on(read, 2).remote([ref]))
        assert got_bytes == size_bytes
        return taken_s

    rates = []
    for seed in range(8):
        rates.append(LARGE / one(LARGE, seed) / 1e9)
        time.sleep(0.2)  # Ray frees in the background
    repeated = statistics.median(rates[1:])
    harness.emit("cluster_transfer_100mb_first", rates[0], "GB/s", better="higher")
    harness.emit("cluster_transfer_100mb", repeated, "GB/s", better="higher")
    harness.emit("cluster_transfer_100mb_of_tcp", 100 * repeated / stream, "%", better="higher")
    harness.emit("cluster_transfer_200kb_latency", 1e3 * statistics.median(one(MEDIUM, seed) for seed in range(30)), "ms", better="lower")

    source = np.random.default_rng(9).integers(0, 255, LARGE, dtype=np.uint8)
    taken = []
    for _ in range(4):
        ref = ray.put(source)
        started = time.perf_counter()
        ray.get([on(read, number).remote([ref]) for number in (1, 2, 3)])
        taken.append(time.perf_counter() - started)
        del ref
        time.sleep(0.2)
    harness.emit("cluster_broadcast_100mb_to_3", statistics.median(taken[1:]), "s", better="lower")
    nodes.close()


def tcp_stream() -> float:
    """GB/s of a plain stream of LARGE bytes between two processes on this machine, out of and into memory that was touched before."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        sender = multiprocessing.get_context("spawn").Process(target=send_parts, args=(listener.getsockname(), 7))
        sender.start()
        connection, _ = listener.accept()
        target = memoryview(bytearray(b"\1") * LARGE)
        rates = []
        with connection:
            for _ in range(7):
                started = time.perf_counter()
                connection.sendall(b"!")
                received = 0
                while received < LARGE:
                    received += connection.recv_into(target[received:])
                rates.append(LARGE / (time.perf_counter() - started) / 1e9)
        sender.join()
    return statistics.median(rates)


def send_parts(address: tuple[str, int], parts: int) -> None:
    data = np.ones(LARGE, np.uint8).data
    with socket.create_connection(address) as connection:
        for _ in range(parts):
            connection.recv(1)
            connection.sendall(data)


def node_death() -> None:
    """A node is killed: when that is known, when its actor is back, when its task is done, when its object is there again."""
    nodes = Nodes(3)
    ray = nodes.ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    @ray.remote(num_cpus=0, max_restarts=2, max_task_retries=-1, resources={"pair": 1})
    class Actor:
        def node(self) -> str:
            return str(ray.get_runtime_context().get_node_id())

    @ray.remote(num_cpus=0, max_retries=5)
    def sleep_two() -> str:
        time.sleep(2.0)
        return str(ray.get_runtime_context().get_node_id())

    @ray.remote(num_cpus=0, max_retries=5)
    def large() -> Any:
        return np.ones(10_000_000, np.uint8)

    actor = Actor.remote()
    victim = ray.get(actor.node.remote())
    there = NodeAffinitySchedulingStrategy(victim, soft=True)
    lost = large.options(scheduling_strategy=there).remote()
    ray.wait([lost], fetch_local=False)
    time.sleep(0.7)
    running = sleep_two.options(scheduling_strategy=there).remote()
    time.sleep(1.0)

    killed = time.perf_counter()
    nodes.cluster.remove_node(nodes.handles[nodes.ids.index(victim)], allow_graceful=False)
    wait(lambda: victim not in nodes.alive())
    harness.emit("cluster_node_death_detect", time.perf_counter() - killed, "s", better="lower")
    assert ray.get(actor.node.remote(), timeout=DEADLINE_S) != victim
    harness.emit("cluster_actor_back_after_node_kill", time.perf_counter() - killed, "s", better="lower")
    assert ray.get(running, timeout=DEADLINE_S) != victim
    harness.emit("cluster_task_done_after_node_kill", time.perf_counter() - killed, "s", better="lower")
    assert ray.get(lost, timeout=DEADLINE_S).nbytes == 10_000_000
    harness.emit("cluster_lost_object_ready_after_node_kill", time.perf_counter() - killed, "s", better="lower")
    nodes.close()


def reconstruction() -> None:
    """A node is killed that holds a thousand results of 200 KB, and nobody else does: how long until the driver has them all again, made anew elsewhere."""
    nodes = Nodes(2)
    nodes.warm()
    ray = nodes.ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    @ray.remote(max_retries=5)
    def medium(seed: int) -> Any:
        return np.full(MEDIUM, seed % 251, np.uint8)

    victim = nodes.ids[0]
    there = medium.options(scheduling_strategy=NodeAffinitySchedulingStrategy(victim, soft=True))
    refs = [there.remote(seed) for seed in range(1000)]
    ready, _ = ray.wait(refs, num_returns=len(refs), fetch_local=False, timeout=DEADLINE_S)
    assert len(ready) == len(refs)

    killed = time.perf_counter()
    nodes.cluster.remove_node(nodes.handles[0], allow_graceful=False)
    wait(lambda: victim not in nodes.alive())
    known = time.perf_counter()
    for seed, ref in enumerate(refs):
        assert ray.get(ref, timeout=DEADLINE_S)[-1] == seed % 251
    there_again = time.perf_counter()
    harness.emit("cluster_reconstruct_1000_objects", there_again - known, "s", better="lower")
    harness.emit("cluster_1000_objects_back_after_node_kill", there_again - killed, "s", better="lower")
    nodes.close()


def worker_death() -> None:
    """From the kill of a worker on another node to the error at the caller."""
    nodes = Nodes(1)
    nodes.warm()
    ray = nodes.ray

    @ray.remote(num_cpus=0)
    class Actor:
        def pid(self) -> int:
            return os.getpid()

    taken = []
    for _ in range(3):
        actor = on(Actor, 1).remote()
        pid = ray.get(actor.pid.remote())
        started = time.perf_counter()
        os.kill(pid, 9)
        try:
            while True:
                ray.get(actor.pid.remote(), timeout=DEADLINE_S)
        except ray.exceptions.RayActorError:
            taken.append(time.perf_counter() - started)
    harness.emit("cluster_worker_death_to_error", 1e3 * statistics.median(taken), "ms", better="lower")
    nodes.close()


if __name__ == "__main__":
    harness.sections(
        {
            "joining": joining,
            "remote_tasks": remote_tasks,
            "remote_actors": remote_actors,
            "transfers": transfers,
            "node_death": node_death,
            "reconstruction": reconstruction,
            "worker_death": worker_death,
        }
    )

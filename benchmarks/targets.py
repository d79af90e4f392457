"""What each figure must reach (docs/design holds the reasons) and which peer it is held against.

A figure's direction comes with its measurement, so a bound is "at least" for rates and "at most" for durations and sizes.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Target:
    """`bound` in the figure's unit; `factor`: how many times better than Ray in the same run."""

    bound: float | None = None
    factor: float | None = None


TARGETS = {
    "import_ray": Target(0.10),
    "init": Target(0.12),
    "process_start_to_first_result": Target(0.3),
    "shutdown": Target(0.2),
    "idle_processes": Target(4),
    "idle_pss": Target(60),
    "idle_threads": Target(10),
    "idle_cpu": Target(0.5),
    "idle_worker_pss": Target(12),
    "installed_size_with_hard_dependencies": Target(30),
    "tasks_sync": Target(1e6 / 60, 20),
    "tasks_async": Target(60_000, 30),
    "tasks_async_10k": Target(60_000, 30),
    "actor_sync": Target(1e6 / 50, 13),
    "actor_async": Target(100_000, 24),
    "async_actor_sync": Target(1e6 / 80),
    "async_actor_async": Target(40_000),
    "actors_2x2_async": Target(60_000),
    "chain_1000": Target(80),
    "tree_reduce_1000": Target(60),
    "submit_and_wait_1000_one_by_one": Target(35),
    "wait_1000_finished_one_by_one": Target(10),
    "get_object_with_10k_refs": Target(5),
    "generator_task": Target(100_000),
    "put_small": Target(120_000),
    "get_small": Target(300_000),
    "put_1mb": Target(5_000),
    "task_1mb_argument_sync": Target(3_000),
    "put_1gib_first_of_pwrite": Target(90),
    "put_1gib_repeated_of_memcpy": Target(85),
    "get_1gib_elsewhere": Target(0.1),
    "spill_of_raw": Target(80),
    "restore_disk_of_raw": Target(80),
    "actor_create_one": Target(10),
    "actor_create_20": Target(200),
    "actor_create_1000": Target(10),
    "placement_group_one": Target(0.3),
    "placement_group_100": Target(5_000),
    "task_retry": Target(50),
    "actor_restart": Target(50),
    "cancel_queued": Target(factor=1),
    "cancel_running": Target(factor=1),
    "cancel_coroutine": Target(factor=1),
    # Better than Ray in the same run, where nothing more is asked.
    "cluster_head_start": Target(factor=1),
    "cluster_node_add": Target(factor=1),
    "cluster_shutdown": Target(factor=1),
    "cluster_remote_task_sync": Target(factor=10),
    "cluster_remote_tasks_async_1000": Target(factor=1),
    "cluster_spread_tasks_async_1000": Target(factor=10),
    "cluster_remote_actor_sync": Target(factor=1),
    "cluster_remote_actor_async_1000": Target(factor=1),
    "cluster_transfer_100mb_first": Target(factor=1),
    "cluster_transfer_100mb": Target(factor=1),
    "cluster_transfer_100mb_of_tcp": Target(80),
    "cluster_transfer_200kb_latency": Target(factor=1),
    "cluster_broadcast_100mb_to_3": Target(factor=1),
    "cluster_node_death_detect": Target(5, 1),
    "cluster_actor_back_after_node_kill": Target(factor=1),
    "cluster_task_done_after_node_kill": Target(factor=1),
    "cluster_lost_object_ready_after_node_kill": Target(factor=1),
    "cluster_reconstruct_1000_objects": Target(factor=1),
    "cluster_1000_objects_back_after_node_kill": Target(factor=1),
    "cluster_worker_death_to_error": Target(factor=1),
    "queue_100k": Target(2.5),
    "queue_100k_memory": Target(60),
    "queue_1m": Target(25),
    "queue_1m_memory": Target(500),
    # 300 B for the task and 150 B for the reference to its result.
    "queued_task_bytes": Target(450),
    "object_ref_bytes": Target(150),
}

# What the machine does, measured so that other figures can be given against it: not a race.
REFERENCES = {"reference_memcpy", "reference_pwrite", "reference_tcp_stream", "reference_disk_write", "reference_disk_read", "reference_disk_read_disk"}

# Our figure -> the peers' figures that do the same work, one task per message.
PEERS = {
    "tasks_sync": ["ProcessPoolExecutor.sync", "multiprocessing.Pool.sync"],
    "tasks_async": ["ProcessPoolExecutor.async", "multiprocessing.Pool.async", "multiprocessing.Pool.map"],
    "task_1mb_argument_async": ["ProcessPoolExecutor.1mb_argument", "multiprocessing.Pool.1mb_argument"],
}

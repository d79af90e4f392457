"""Where the running code is: its ids, its resources, its environment."""

from __future__ import annotations

import sys

from ray._core import LOCAL_MODE, SCRIPT_MODE, WORKER_MODE, session
from ray._core.ids import ActorID, JobID, NodeID, PlacementGroupID, TaskID

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ray.actor import ActorHandle

__all__ = ["RuntimeContext", "get_runtime_context"]


class _Worker:
    """What `RuntimeContext.worker` tells of the process. Compat: Ray's is the core worker; programs read its `mode`."""

    @property
    def mode(self) -> int:
        """`ray.SCRIPT_MODE` in a driver, `ray.WORKER_MODE` in a worker, `ray.LOCAL_MODE` in local mode."""
        if session.is_local():
            return LOCAL_MODE
        return SCRIPT_MODE if session.current is not None else WORKER_MODE


class RuntimeContext:
    """Answers questions about the driver, task or actor that asks. Made by `get_runtime_context`."""

    def __init__(self, worker: Any = None) -> None:
        self.worker = _Worker() if worker is None else worker

    @staticmethod
    def _read() -> dict[str, Any]:
        return session.auto_init().context()

    @classmethod
    def _read_in_worker(cls) -> dict[str, Any]:
        """Read the context of a task or actor.

        Raises:
            RuntimeError: In the driver.
        """
        if session.in_driver():
            raise RuntimeError("this is only known inside a task or actor, and this is the driver")
        return cls._read()

    def get(self) -> dict[str, Any]:
        """Give the ids in one dict. Deprecated in Ray in favour of the `get_..._id` methods.

        Returns:
            "job_id", "node_id", "namespace", and inside a call "task_id" and "actor_id", as id objects.
        """
        found = {"job_id": self.job_id, "node_id": self.node_id, "namespace": self.namespace}
        if not session.in_driver():
            found["task_id"] = self.task_id
            if self.actor_id is not None:
                found["actor_id"] = self.actor_id
        return found

    def get_job_id(self) -> str:
        """Id of the job in hex."""
        return self.job_id.hex()

    def get_node_id(self) -> str:
        """Id of the node in hex."""
        return self.node_id.hex()

    def get_worker_id(self) -> str:
        """Id of the process in hex."""
        worker_id: bytes = self._read()["worker_id"]
        return worker_id.hex()

    def get_task_id(self) -> str | None:
        """Id of the running task in hex; None in the driver."""
        task_id = None if session.in_driver() else self._read()["task_id"]
        return task_id.hex() if task_id else None

    def get_task_name(self) -> str | None:
        """Name of the running task; None in the driver."""
        return None if session.in_driver() else self._read()["task_name"]

    def get_task_function_name(self) -> str | None:
        """Name of the function or method that runs, whatever the task is named; None in the driver.

        Returns:
            "module.function", or "Class.method" of an actor.
        """
        from ray._core.introspection import function_name

        return function_name(self._read())

    def is_canceled(self) -> bool:
        """Tell whether `ray.cancel` was called for the running call. The way for a method of a sync actor, which is not interrupted, to end early.

        Returns:
            False in the driver.
        """
        return session.auto_init().is_canceled()

    def get_actor_id(self) -> str | None:
        """Id of the actor in hex; None outside actors."""
        actor_id: bytes = self._read()["actor_id"]
        return actor_id.hex() if actor_id else None

    def get_actor_name(self) -> str | None:
        """Name of the actor, "" if it has none; None outside actors."""
        context = self._read()
        return context["actor_name"] if context["actor_id"] else None

    def get_assigned_resources(self) -> dict[str, float]:
        """Resources that the running task or actor holds.

        Returns:
            Amount by resource name.

        Raises:
            RuntimeError: In the driver.
        """
        resources: dict[str, float] = self._read_in_worker()["resources"]
        return resources

    def get_accelerator_ids(self) -> dict[str, list[str]]:
        """Ids of the accelerators that the running task or actor holds, by family.

        Returns:
            A list for each family, for example {"GPU": ["0"], ...}.
        """
        return _device_names(self._read()["devices"])

    def get_resource_ids(self) -> dict[str, list[str]]:
        """Older name of `get_accelerator_ids`."""
        return self.get_accelerator_ids()

    def get_node_labels(self) -> dict[str, str]:
        """Labels of the node."""
        from ray._core.introspection import nodes

        here = self.get_node_id()
        return next((dict(node["Labels"]) for node in nodes() if node["NodeID"] == here), {})

    def get_placement_group_id(self) -> str | None:
        """Id of the placement group in hex; None outside of one."""
        group_id: bytes = self._read()["placement_group"]
        return group_id.hex() if group_id else None

    def get_runtime_env_string(self) -> str:
        """The environment of the caller as JSON."""
        return self._read()["env"] or "{}"

    def get_session_name(self) -> str:
        """Name of the session: the last part of its folder."""
        return self._session_dir().rpartition("/")[2]

    def get_temp_dir(self) -> str:
        """Folder that holds the folders of sessions."""
        return self._session_dir().rpartition("/")[0]

    def _session_dir(self) -> str:
        session.auto_init()
        if session.current is not None:
            return session.current.session_dir
        from ray._core.worker.main import session_dir

        return session_dir()

    @property
    def job_id(self) -> JobID:
        """Id of the job."""
        return JobID(self._read()["job_id"])

    @property
    def node_id(self) -> NodeID:
        """Id of the node."""
        return NodeID(self._read()["node_id"])

    @property
    def task_id(self) -> TaskID | None:
        """Id of the running task; None in the driver."""
        task_id = None if session.in_driver() else self._read()["task_id"]
        return TaskID(task_id) if task_id else None

    @property
    def actor_id(self) -> ActorID | None:
        """Id of the actor; None outside actors."""
        actor_id = self._read()["actor_id"]
        return ActorID(actor_id) if actor_id else None

    @property
    def namespace(self) -> str:
        """Namespace of the job."""
        namespace: str = self._read()["namespace"]
        return namespace

    @property
    def gcs_address(self) -> str:
        """Address of the cluster."""
        if session.current is not None:
            return str(session.current.context.address_info["gcs_address"])
        from ray._core.cluster.facts import head_address

        return head_address(session.auto_init())

    @property
    def runtime_env(self) -> dict[str, Any]:
        """The environment of the caller."""
        import json

        found: dict[str, Any] = json.loads(self.get_runtime_env_string())
        return found

    @property
    def was_current_actor_reconstructed(self) -> bool:
        """Whether the actor has been restarted.

        Raises:
            RuntimeError: Outside actors.
        """
        context = self._read_in_worker()
        if not context["actor_id"]:
            raise RuntimeError("this is only known inside an actor")
        return bool(context["was_restarted"])

    @property
    def current_actor(self) -> ActorHandle[Any]:
        """A handle to the actor itself.

        Raises:
            RuntimeError: Outside actors.
        """
        from ray.actor import current_actor_handle

        return current_actor_handle()

    @property
    def current_placement_group_id(self) -> PlacementGroupID:
        """Id of the placement group; nil outside of one."""
        group_id = self._read()["placement_group"]
        return PlacementGroupID(group_id) if group_id else PlacementGroupID.nil()

    @property
    def should_capture_child_tasks_in_placement_group(self) -> bool:
        """Whether tasks started here join the placement group."""
        return bool(self._read()["captures_children"])


def get_runtime_context() -> RuntimeContext:
    """Give the context of the caller.

    Returns:
        A view: each question is answered for the caller at that moment.

    Example:
        >>> ray.get_runtime_context().get_job_id()
        '01000000'
    """
    session.auto_init()
    return RuntimeContext()


def get_gpu_ids() -> list[int | str]:
    """Give the ids of the GPUs that the running task or actor holds.

    Returns:
        As the variable of visible devices lists them: numbers, or the names that the node was started with; empty in the driver.
    """
    names = _device_names(session.auto_init().context()["devices"])["GPU"]
    return [int(name) if name.isdigit() else name for name in names]


def _device_names(devices: dict[str, list[int]]) -> dict[str, list[str]]:
    """Name devices as their libraries do: for every family, by its resource."""
    worker = sys.modules.get("ray._core.worker.main")  # only in a worker
    if worker is not None and session.current is None:
        found: dict[str, list[str]] = worker.shown_devices().names(devices)
        return found
    from ray._core.cluster.accelerators import RESOURCES

    return {resource: [str(index) for index in devices.get(resource, ())] for resource in RESOURCES}

"""The options as type checkers see them. Imported by them only."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TypedDict

if TYPE_CHECKING:
    from collections.abc import Sequence


class SharedOptions(TypedDict, total=False):
    """Options of tasks and actors."""

    accelerator_type: str | None
    enable_task_events: bool
    fallback_strategy: list[dict[str, Any]] | None
    label_selector: dict[str, str] | None
    memory: float | None
    name: str | None
    num_cpus: float | None
    num_gpus: float | None
    object_store_memory: int | None
    placement_group: Any
    placement_group_bundle_index: int
    placement_group_capture_child_tasks: bool | None
    resources: dict[str, float] | None
    runtime_env: dict[str, Any] | None
    scheduling_strategy: Any
    _labels: dict[str, str] | None


class TaskCallOptions(SharedOptions, total=False):
    """What `.options()` of a remote function takes beside `num_returns`."""

    max_retries: int | None
    retry_exceptions: bool | Sequence[type[BaseException]]
    _generator_backpressure_num_objects: int | None
    _num_objects_per_yield: int | None


class ActorCallOptions(SharedOptions, total=False):
    """What `.options()` of an actor class takes."""

    allow_out_of_order_execution: bool | None
    enable_tensor_transport: bool | None
    get_if_exists: bool
    lifetime: Literal["detached", "non_detached"] | None
    max_concurrency: int | None
    max_pending_calls: int | None
    max_restarts: int | None
    max_task_retries: int | None
    namespace: str | None
    _actor_generator_backpressure_num_objects: int | None


class RemoteOptions(TaskCallOptions, ActorCallOptions, total=False):
    """What `@ray.remote` takes beside `num_returns`."""

    concurrency_groups: dict[str, int] | None
    max_calls: int | None


class MethodOptions(TypedDict, total=False):
    """What `@ray.method` takes."""

    concurrency_group: str | None
    enable_task_events: bool | None
    max_task_retries: int | None
    num_returns: int | Literal["streaming"] | None
    retry_exceptions: bool | Sequence[type[BaseException]] | None
    tensor_transport: str | None
    _generator_backpressure_num_objects: int | None
    _num_objects_per_yield: int | None


class MethodCallOptions(MethodOptions, total=False):
    """What `.options()` of an actor method takes."""

    name: str | None

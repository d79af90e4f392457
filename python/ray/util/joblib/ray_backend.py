"""The backend "ray" of joblib: each batch of calls is a task."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from joblib._parallel_backends import AutoBatchingMixin, ParallelBackendBase

import ray

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["RayBackend"]

_SHARED_FROM_BYTES = 1 << 20


class RayBackend(AutoBatchingMixin, ParallelBackendBase):  # type: ignore[misc]  # joblib has no types
    """Runs batches of calls as tasks.

    Args:
        ray_remote_args: Options of the tasks, such as `num_cpus`.
    """

    supports_retrieve_callback = True
    supports_sharedmem = False

    def __init__(self, *args: Any, ray_remote_args: dict[str, Any] | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._task: Any = ray.remote(_run).options(**(ray_remote_args or {}))
        self._shared: dict[int, tuple[Any, Any]] = {}
        """Large arguments of the current `Parallel` call by id, each with its reference: put once, however many calls take it."""

    def effective_n_jobs(self, n_jobs: int | None) -> int:
        """How many calls may run at a time: `n_jobs`, where -1 stands for every CPU of the cluster, -2 for all but one.

        Raises:
            ValueError: `n_jobs` is 0.
        """
        if n_jobs == 0:
            raise ValueError("n_jobs == 0 in Parallel has no meaning")
        if n_jobs is None:
            return 1
        if n_jobs > 0:
            return n_jobs
        if not ray.is_initialized():
            ray.init()
        return max(1, int(ray.cluster_resources().get("CPU", 1)) + 1 + n_jobs)

    def configure(self, n_jobs: int = 1, parallel: Any = None, prefer: Any = None, require: Any = None, **_memmapping: Any) -> int:
        """Get ready for a `Parallel` call."""
        del prefer, require
        self.parallel = parallel
        return self.effective_n_jobs(n_jobs)

    def submit(self, func: Any, callback: Callable[[Any], Any] | None = None) -> Any:
        """Start a batch. Gives a future, which `callback` gets when it is done."""
        future = self._task.remote(self._with_references(func)).future()
        if callback is not None:
            future.add_done_callback(callback)
        return future

    apply_async = submit  # its name before joblib 1.4

    def retrieve_result_callback(self, out: Any) -> Any:
        """The results of a batch."""
        return out.result()

    def stop_call(self) -> None:
        """The `Parallel` call is over."""
        self._shared.clear()

    def terminate(self) -> None:
        """No more calls."""
        self._shared.clear()

    def _with_references(self, batch: Any) -> Any:
        items = getattr(batch, "items", None)
        if not isinstance(items, list):
            return batch
        batch = copy.copy(batch)
        batch.items = [self._item(*item) for item in items]
        return batch

    def _item(self, function: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, Any, Any]:
        new_args = tuple(self._argument(one) for one in args)
        new_kwargs = {name: self._argument(one) for name, one in kwargs.items()}
        if all(new is old for new, old in zip((*new_args, *new_kwargs.values()), (*args, *kwargs.values()), strict=True)):
            return function, args, kwargs
        return _call, (function, new_args, new_kwargs), {}

    def _argument(self, value: Any) -> Any:
        size = getattr(value, "nbytes", 0)
        if not isinstance(size, int) or size < _SHARED_FROM_BYTES:
            return value
        if id(value) not in self._shared:
            self._shared[id(value)] = (value, _Shared(ray.put(value)))
        return self._shared[id(value)][1]


class _Shared:
    """Stands for a large argument."""

    def __init__(self, ref: Any) -> None:
        self.ref = ref


def _run(batch: Any) -> Any:
    return batch()


def _call(function: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    def value(one: Any) -> Any:
        return ray.get(one.ref) if isinstance(one, _Shared) else one

    return function(*(value(one) for one in args), **{name: value(one) for name, one in kwargs.items()})

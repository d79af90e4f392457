"""Ray, implemented independently: tasks, actors and objects on one machine or many.

This module holds names only. Each is loaded at first use, so that `import ray` costs nothing to speak of.
"""

import sys

from ray import _core

__version__ = _core.RAY_VERSION
"""The version of Ray whose interface this implements. Our own release is `__own_version__`."""
__commit__ = _core.RAY_COMMIT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ray import actor, exceptions, job_config, remote_function, runtime_context, types
    from ray._core.calls.cancellation import cancel
    from ray._core.calls.decorators import method
    from ray._core.config.engine import Language
    from ray._core.config.engine import config as _config
    from ray._core.config.logging_config import LoggingConfig
    from ray._core.generators import DynamicObjectRefGenerator, ObjectRefGenerator
    from ray._core.ids import (
        ActorClassID,
        ActorID,
        ClusterID,
        FunctionID,
        JobID,
        NodeID,
        ObjectID,
        PlacementGroupID,
        TaskID,
        UniqueID,
        WorkerID,
    )
    from ray._core.introspection import available_resources, cluster_resources, nodes, timeline
    from ray._core.objects import get, put, wait
    from ray._core.session import init, is_initialized, shutdown
    from ray._native import ObjectRef
    from ray.actor import get_actor, kill
    from ray.remote_function import remote
    from ray.runtime_context import get_gpu_ids, get_runtime_context

__all__ = [
    "LOCAL_MODE",
    "SCRIPT_MODE",
    "WORKER_MODE",
    "ActorClassID",
    "ActorID",
    "ClusterID",
    "DynamicObjectRefGenerator",
    "FunctionID",
    "JobID",
    "Language",
    "LoggingConfig",
    "NodeID",
    "ObjectID",
    "ObjectRef",
    "ObjectRefGenerator",
    "PlacementGroupID",
    "TaskID",
    "UniqueID",
    "WorkerID",
    "__version__",
    "_config",
    "actor",
    "available_resources",
    "cancel",
    "cluster_resources",
    "exceptions",
    "get",
    "get_actor",
    "get_gpu_ids",
    "get_runtime_context",
    "init",
    "is_initialized",
    "job_config",
    "kill",
    "method",
    "nodes",
    "put",
    "remote",
    "remote_function",
    "runtime_context",
    "shutdown",
    "timeline",
    "types",
    "wait",
]

if TYPE_CHECKING:
    __own_version__: str
LOCAL_MODE = _core.LOCAL_MODE
SCRIPT_MODE = _core.SCRIPT_MODE
WORKER_MODE = _core.WORKER_MODE

_HOMES = {
    "_core.calls.cancellation": ("cancel",),
    "_core.calls.decorators": ("method",),
    "_core.ids": (
        "ActorClassID",
        "ActorID",
        "ClusterID",
        "FunctionID",
        "JobID",
        "NodeID",
        "PlacementGroupID",
        "TaskID",
        "UniqueID",
        "WorkerID",
    ),
    "_core.config.engine": ("Language",),
    "_core.config.logging_config": ("LoggingConfig",),
    "_core.generators": ("DynamicObjectRefGenerator", "ObjectRefGenerator"),
    "_core.introspection": ("available_resources", "cluster_resources", "nodes", "timeline"),
    "_core.objects": ("get", "put", "wait"),
    "_core.session": ("init", "is_initialized", "shutdown"),
    "_native": ("ObjectRef",),
    "actor": ("get_actor", "kill"),
    "remote_function": ("remote",),
    "runtime_context": ("get_gpu_ids", "get_runtime_context"),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}
_RENAMED = {
    "ObjectID": ("_native", "ObjectRef"),
    "__own_version__": ("_native", "__version__"),
    "_config": ("_core.config.engine", "config"),
}
_SUBMODULES = frozenset(
    ["_private", "_raylet", "actor", "client_builder", "cloudpickle", "exceptions", "experimental", "job_config", "remote_function", "runtime_context"]
    + ["types", "util"]
)


def _check_interpreter() -> None:
    """Refuse interpreters in which the extension module would misbehave."""
    if sys.version_info >= (3, 13):
        import sysconfig

        if sysconfig.get_config_var("Py_GIL_DISABLED"):
            raise ImportError("ray does not support free-threaded builds of Python yet; use a build with the GIL")
    interpreters: Any
    try:
        import _interpreters as interpreters  # type: ignore[no-redef]  # Python 3.13
    except ImportError:
        try:
            import _xxsubinterpreters as interpreters  # type: ignore[no-redef]
        except ImportError:
            return
    if interpreters.get_current() != interpreters.get_main():
        raise ImportError("ray can't be imported in a subinterpreter; import it in the main interpreter")


_check_interpreter()

if not TYPE_CHECKING:

    def __getattr__(name: str) -> "Any":
        from importlib import import_module

        if name in _SUBMODULES:
            try:
                return import_module(f"ray.{name}")
            except ModuleNotFoundError as e:
                if e.name != f"ray.{name}":
                    raise
        elif name in _HOME_OF or name in _RENAMED:
            module, attribute = _RENAMED.get(name) or (_HOME_OF[name], name)
            value = globals()[name] = getattr(import_module(f"ray.{module}"), attribute)
            return value
        raise AttributeError(f"module 'ray' has no attribute {name!r}")

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})

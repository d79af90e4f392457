"""Start and end of the runtime in this process: `ray.init`, `ray.shutdown`, and the one engine of the process.

Invariants:
1. `core` is the engine of this process or None. It is the only mutable global of the package, with the session that started it.
2. In a worker `core` is set by the worker's main function and there is no session.
3. A child made by `os.fork` has no engine: it neither uses nor ends that of its parent. The engine itself parts from the parent (crates/ray-worker/src/fork.rs).
4. When a session ends, nothing of this package keeps its engine: those that hold a part of it were announced with `tell_at_end`.

Lock: `_lock` (re-entrant) is held while starting and ending; nothing else is locked under it.
"""

from __future__ import annotations

import sys
from _thread import RLock  # not `threading`, which `import ray` need not load
from weakref import WeakSet

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any, Protocol

    from ray._core.launch import RayContext
    from ray._core.log_printer import LogPrinter
    from ray._native import CallTemplate, Core

core: Core | None = None
"""The engine of this process. Read it at every use: it changes with `init` and `shutdown`."""

current: Session | None = None
"""What `init` started here; None in workers."""

epoch = 0
"""Number of engines that this process has lost. What belongs to one remembers its epoch instead of keeping it alive."""

_no_auto_init = ""
"""Why only an explicit `init` may start an engine here now, "" if any first use may."""

_FORKED = (
    "this process was forked from one that uses ray: the session, and what belongs to it, is the parent's"
    '\nhint: start the process with the "spawn" method, call ray in the parent only, or call ray.init() here for a session of its own'
)
_EXITING = (
    "the interpreter is exiting and the session has ended: ray.init() had registered its exit handler after the one that runs now"
    "\nhint: register exit handlers that use ray after ray.init()"
)

_lock = RLock()
_holders: WeakSet[Holder] = WeakSet()


if TYPE_CHECKING:

    class Holder(Protocol):
        """Keeps a part of the engine, such as a template of calls."""

        def forget_engine(self) -> None: ...


class Session:
    """What a driver started."""

    def __init__(self, engine: Core, context: RayContext, printer: LogPrinter | None, session_dir: str, settings: Mapping[str, Any], storage: str = "") -> None:
        self.core = engine
        self.context = context
        self.printer = printer
        self.session_dir = session_dir
        self.settings = settings
        self.storage = storage
        """Where this session's nodes spill objects to besides their disks, if it started them."""

    def end(self, exiting: bool) -> None:
        """Stop the engine, then print what the workers still said."""
        self.core.shutdown(exiting)
        futures = sys.modules.get("ray._core.futures")
        if futures is not None and not exiting:
            futures.end_threads()
        logging_config = sys.modules.get("ray._core.config.logging_config")
        if logging_config is not None:
            logging_config.forget()
        if self.printer is not None:
            self.printer.stop()
        if self.storage:
            from ray._core.config import storage

            storage.remove_all(self.storage)


def init(
    address: str | None = None,
    *,
    num_cpus: int | None = None,
    num_gpus: int | None = None,
    resources: dict[str, float] | None = None,
    labels: dict[str, str] | None = None,
    object_store_memory: int | None = None,
    local_mode: bool = False,
    ignore_reinit_error: bool = False,
    include_dashboard: bool | None = None,
    dashboard_host: str = "127.0.0.1",
    dashboard_port: int | None = None,
    job_config: Any = None,
    configure_logging: bool = True,
    logging_level: int | str = "info",
    logging_format: str | None = None,
    logging_config: Any = None,
    log_to_driver: bool | None = None,
    namespace: str | None = None,
    runtime_env: dict[str, Any] | None = None,
    enable_resource_isolation: bool = False,
    cgroup_path: str | None = None,
    system_reserved_cpu: float | None = None,
    system_reserved_memory: int | None = None,
    proxy_server_url: str | None = None,
    **kwargs: Any,
) -> RayContext:
    """Connect to a cluster, or start a node on this machine and connect to that.

    Args:
        address: "local": a node of this program's own, which ends with it. "auto": the youngest cluster of this user with a node on this machine.
            "host:port": that cluster; a node of it must run on this machine. None: what RAY_ADDRESS says; else the cluster that was started last with
            `ray start` on this machine, and without one a node of this program's own.
        num_cpus: CPUs to offer; by default those that this process may use.
        num_gpus: GPUs to offer; by default those that are visible.
        resources: Custom resources and their amounts.
        labels: Labels of the node.
        object_store_memory: Size of the object store in bytes; by default 30 % of the memory.
        local_mode: Run everything in this process, for debugging and tests: no daemon, no workers. The environment variable RAY_LOCAL_MODE=1 does the
            same. Compat: Ray removed its own.
        ignore_reinit_error: Return the running session instead of raising.
        include_dashboard: There is no dashboard yet: True gives a warning.
        dashboard_host: Unused without a dashboard.
        dashboard_port: Unused without a dashboard.
        job_config: What holds for everything that this program starts, a `ray.job_config.JobConfig`. An argument that is given here goes before it.
        configure_logging: Set up the logger named "ray".
        logging_level: Level of that logger.
        logging_format: Format of its lines.
        logging_config: How this program and its workers log, a `ray.LoggingConfig`; by default as Python does.
        log_to_driver: Print what workers print; by default yes.
        namespace: Namespace for named actors; by default a fresh one of its own.
        runtime_env: Environment of all tasks and actors; `env_vars` so far.
        enable_resource_isolation: Not available yet.
        cgroup_path: Not available yet.
        system_reserved_cpu: Not available yet.
        system_reserved_memory: Not available yet.
        proxy_server_url: Unused without a dashboard.
        **kwargs: `object_spilling_directory` (where objects go when the store is full; by default the disk of the session folder), `_temp_dir` (where the
            session folder goes), `_system_config` (settings of the engine; "job_weight", the job's share of what is
            scarce against other jobs, where 100 is one share, may be given when connecting too), `_memory` (bytes to offer).

    Returns:
        A context with the addresses, usable in a `with` statement.

    Raises:
        RuntimeError: Already started, an unknown argument, or the node did not start.
        ConnectionError: There is no such cluster here, or it can't be reached.
        ValueError: An argument has a bad value, or is about a node to be started and this connects to a cluster.
        TypeError: An argument has the wrong type.
        NotImplementedError: An argument asks for what is not built yet.

    Example:
        >>> with ray.init(num_cpus=2):
        ...     print(ray.get(ray.put(1)))
        1
    """
    from ray._core import launch

    global core, current, _no_auto_init
    arguments = {name: value for name, value in locals().items() if name not in ("kwargs", "launch", "ignore_reinit_error")}
    with _lock:
        if core is not None:
            if current is None or not ignore_reinit_error:
                raise RuntimeError(
                    "ray.init() was called, but this process is connected already\nhint: pass ignore_reinit_error=True, or call ray.shutdown() first"
                )
            launch.note_reinit()
            return current.context
        launch.check_arguments(arguments, kwargs)
        current = launch.start(arguments, kwargs)
        core = current.core
        _no_auto_init = ""
        return current.context


def is_local() -> bool:
    """Tell whether the session is in local mode: tasks and actors run in this process."""
    return current is not None and bool(current.settings["local_mode"])


def in_driver() -> bool:
    """Tell whether the caller is the driver's program rather than a task or an actor. In local mode both are in one process."""
    return current is not None and not (is_local() and current.core.context()["in_task"])


def template_class() -> type[CallTemplate]:
    """Give the class whose instances are call sites of this process's engine."""
    if is_local():
        from ray._core.local.calls import LocalTemplate

        found: Any = LocalTemplate
        return found  # type: ignore[no-any-return]
    from ray._native import CallTemplate

    return CallTemplate


def auto_init() -> Core:
    """Give the engine, starting a local node if there is none.

    Returns:
        The engine of this process.

    Raises:
        RaySystemError: This process was forked from one with an engine, or it is exiting; only `init` would start one here.
    """
    if core is None:
        with _lock:
            if core is None and not _no_auto_init:
                _init_without_being_asked()
    if core is None:
        from ray._native import stay_if_interpreter_exits
        from ray.exceptions import RaySystemError

        stay_if_interpreter_exits()
        raise RaySystemError(_no_auto_init)
    return core


def _init_without_being_asked() -> None:
    from ray._core.config import env

    if not env("RAY_ENABLE_AUTO_CONNECT"):
        from ray.exceptions import RaySystemError

        raise RaySystemError("Ray has not been started yet, and RAY_ENABLE_AUTO_CONNECT=0 forbids to start it at first use\nhint: call ray.init()")
    init()


def why_lost() -> str:
    """Say why what belonged to an earlier session is out of reach here, "" if that session just ended."""
    return _FORKED if _inherited else ""


def is_initialized() -> bool:
    """Tell whether this process is connected.

    Returns:
        True between `init` and `shutdown`, and always in a worker.
    """
    return core is not None


def shutdown(*, wait_for_processes: bool = False, _exiting_interpreter: bool = False) -> None:  # noqa: ARG001  Ray's signature
    """Disconnect, and end the node that `init` started; a node that was there before stays. Does nothing when not connected.

    Args:
        wait_for_processes: Kept for compatibility: the processes of the node have always ended when this returns.
        _exiting_interpreter: Set by the exit hook of the interpreter.
    """
    global core, current, epoch
    if not in_driver():
        return
    with _lock:
        ending, current = current, None
        if ending is None:
            return
        core = None
        epoch += 1
        for holder in list(_holders):
            holder.forget_engine()
        _holders.clear()
        ending.end(_exiting_interpreter)


def tell_at_end(holder: Holder) -> None:
    """Announce an object that keeps a part of the engine: `holder.forget_engine()` is called when the session ends."""
    _holders.add(holder)


def at_exit() -> None:
    """End the session when the interpreter exits."""
    global _no_auto_init
    with _lock:
        _no_auto_init = _EXITING
        shutdown(_exiting_interpreter=True)


def after_fork_in_child() -> None:
    """Let go of the parent's engine without ending it."""
    global core, current, epoch, _lock, _no_auto_init
    _lock = RLock()  # another thread may have held it
    if core is not None:
        if is_local():
            local: Any = core
            local.mark_forked()
        _inherited.append((core, current))  # never dropped: its destructor would act on what is the parent's
        epoch += 1
        _no_auto_init = _FORKED
    core = current = None
    futures = sys.modules.get("ray._core.futures")
    if futures is not None:
        futures.after_fork_in_child()


_inherited: list[Any] = []

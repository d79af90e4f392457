"""A worker process: set up after the fork, then run calls until told to end.

The loop that runs calls is native (crates/ray-py/src/execute.rs); it calls back here for what is better said in Python: resolving payloads,
constructing actors, encoding errors, event loops. Payloads are described in remote_function.py and actor.py, which write them.
"""

from __future__ import annotations

import atexit
import faulthandler
import io
import os
import signal
import sys

from ray import _native
from ray._core import session
from ray._core.cluster.accelerators import Shown
from ray._core.config import env as setting
from ray._core.config.job import apply_logging, logging_of
from ray._core.errors import cancelled_text, encode_exception
from ray._core.serialization import loads_payload
from ray._core.worker import payloads
from ray._core.worker.executors import run_loops, run_threads
from ray._core.worker.farewell import call_shutdown_hook, limit_farewell
from ray._core.worker.payloads import callable_of, function_name, retry_rule

TYPE_CHECKING = False
if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable
    from typing import Any

_NAME_MARK = "\x01ray:name:"
"""Starts a line that tells the daemon what runs now; kept equal to NAME_MARK in crates/ray-node/src/conn.rs."""


class _Worker:
    """What this process is, once it is a worker. One instance per process."""

    def __init__(self) -> None:
        self.instance: Any = None
        self.actor_name = ""
        self.constructor = ""
        self.class_payload = b""
        self.actor_fields: dict[str, Any] = {}
        self.loop: asyncio.AbstractEventLoop | None = None
        self.retry_rules: dict[bytes, payloads.RetryRule] = {}
        self.shown: Shown | None = None
        self.functions: dict[bytes, str] = {}
        self.session_dir = ""
        self.threads_chosen_by_user = False
        self.told_of_blocking = False


_worker = _Worker()


def preload() -> None:
    """Import, in the template, what most workers need: forked memory is shared."""
    import asyncio
    import concurrent.futures.thread
    import contextvars
    import inspect
    import json
    import traceback

    import ray

    del asyncio, concurrent, contextvars, inspect, json, traceback
    del ray


def main(link_fd: int, slot: int, board_fd: int, config: dict[str, Any], env: str) -> int:
    """Run a worker.

    Args:
        link_fd: Socket to the daemon.
        slot: Its place on the status board.
        board_fd: The status board.
        config: `namespace` and `settings` of the job.
        env: Canonical JSON of its runtime environment, "" for none.

    Returns:
        The exit code.
    """
    _native.set_process_name("ray-worker")
    apply_env(env)
    if setting("RAY_WORKER_NICENESS"):
        os.nice(setting("RAY_WORKER_NICENESS"))
    _worker.threads_chosen_by_user = THREADS_VARIABLE in os.environ
    try:
        core = _native.Core.attach(link_fd, slot, board_fd, config["namespace"], env, config["settings"])
    except RuntimeError as error:  # the host refuses what a worker needs: one sentence, and no traceback of this package
        print(f"a worker could not start: {error}", file=sys.stderr)
        return 1
    session.core = core
    _worker.session_dir = config["settings"].get("session_dir", "")
    apply_logging(logging_of(config["settings"]))
    os.register_at_fork(after_in_child=session.after_fork_in_child)
    sys.stdout = _NamedStream(1, core)
    sys.stderr = _NamedStream(2, core)
    sys.breakpointhook = _breakpoint
    faulthandler.enable(2, all_threads=False)
    signal.signal(_native.interrupt_signal(), _native.interrupt_if_cancelled)
    while True:
        reason = _native.run_calls(core)
        if reason != "constructed":
            break
        if _worker.instance is None:
            continue  # the constructor failed: the daemon says what next
        sizes = [_worker.actor_fields["max_concurrency"], *_worker.actor_fields["concurrency_groups"].values()]
        if _worker.loop is not None:
            run_loops(core, _worker.loop, sizes, lambda: limit_farewell(config["settings"]))
            break
        if len(sizes) > 1 or sizes[0] > 1:
            run_threads(core, sizes, lambda: limit_farewell(config["settings"]))
            break
    if _worker.instance is None:
        core.wait_until_unneeded()  # results of its tasks may live on here; an actor's objects go with it, as users of Ray know it
    else:
        limit_farewell(config["settings"])
        if core.is_alive():  # Compat: not when the whole session ends
            call_shutdown_hook(_worker.instance, _worker.loop)
    _run_exit_hooks()
    return 0


def _run_exit_hooks() -> None:
    _worker.instance = None
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()


_NO_TERMINAL = (
    "the process of a task or actor has no terminal to read from"
    "\nhint: call the plain function in the driver, or attach a debugger: debugpy.listen(0) and debugpy.wait_for_client() in the task"
)


def _breakpoint(*args: Any, **kwargs: Any) -> Any:
    """What `breakpoint()` does in a worker: what PYTHONBREAKPOINT says, else an error, since pdb would find an empty stdin and quit.

    Raises:
        RuntimeError: PYTHONBREAKPOINT names no other debugger.
    """
    if setting("PYTHONBREAKPOINT"):
        return sys.__breakpointhook__(*args, **kwargs)
    name = session.core.running_name() if session.core is not None else "a forked process"
    raise RuntimeError(f"breakpoint() in {name} can't start pdb: {_NO_TERMINAL}\nhint: PYTHONBREAKPOINT names another debugger, 0 for none")


def apply_env(env: str) -> None:
    """Take on a runtime environment.

    Args:
        env: Canonical JSON, "" for none.
    """
    if not env:
        return
    import json

    variables: dict[str, str] = json.loads(env).get("env_vars", {})
    os.environ.update(variables)
    for entry in reversed(variables.get("PYTHONPATH", "").split(os.pathsep)):
        if entry and entry not in sys.path:
            sys.path.insert(0, entry)


class _NamedStream(io.TextIOWrapper):
    """stdout or stderr of a worker: unbuffered, so that nothing is lost when it is killed, with a mark line when another call speaks."""

    def __init__(self, fd: int, core: _native.Core) -> None:
        raw = io.FileIO(fd, "w", closefd=False)
        super().__init__(io.BufferedWriter(raw), encoding="utf-8", errors="backslashreplace", line_buffering=True)
        self._core_of_names = core
        self._said = ""
        self._at_line_start = True

    def write(self, text: str, /) -> int:
        if not text:
            return 0
        name = _worker.actor_name or self._core_of_names.running_name()
        if name != self._said and self._at_line_start:
            self._said = name
            super().write(f"{_NAME_MARK}{name}\n")
        self._at_line_start = text.endswith("\n")
        written = super().write(text)
        if not self._at_line_start:
            self.flush()
        return written


def resolve(payload: bytes) -> tuple[Callable[..., Any], bool]:
    """Find the callable of a call site.

    Args:
        payload: Its description.

    Returns:
        The function, or the method bound to this process's actor; whether the timeline is to leave its calls out.
    """
    fields = loads_payload(payload)
    _worker.retry_rules[payload] = retry_rule(fields)
    found = callable_of(fields, _worker.instance)
    _worker.functions[payload] = function_name(found, fields)
    return found, not fields.get("record", True)


def session_dir() -> str:
    """Folder of the session that this process works for, as its driver knows it."""
    return _worker.session_dir


def function_name_of(payload: bytes) -> str | None:
    """Name the function or method of a call site that this process has called, None for another one."""
    if payload == _worker.class_payload:
        return _worker.constructor
    return _worker.functions.get(payload)


def construct(payload: bytes, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Make this process an actor.

    Args:
        payload: Description of its class.
        args: Positional arguments of the constructor.
        kwargs: Keyword arguments of the constructor.

    Returns:
        Whether the timeline is to leave it out.
    """
    fields = loads_payload(payload)
    cls = fields["cls"]
    _worker.actor_fields = fields
    _worker.actor_name, _worker.constructor = fields["class_name"], payloads.method_name(cls, "__init__")
    _worker.class_payload = payload
    if fields["is_async"]:
        _construct_in_loop(cls, args, kwargs)
    else:
        _worker.instance = cls(*args, **kwargs)
    _take_name_from_repr()
    if fields["concurrency_groups"]:
        assert session.core is not None
        session.core.set_groups(1 + len(fields["concurrency_groups"]))
    return not fields["record"]


def _construct_in_loop(cls: type, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    import asyncio

    async def construct_in_loop() -> Any:
        return cls(*args, **kwargs)

    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    _worker.instance = loop.run_until_complete(construct_in_loop())
    _worker.loop = loop


def _take_name_from_repr() -> None:
    """Compat: an actor whose class says how it is shown is shown so in the prefix of its output."""
    if type(_worker.instance).__repr__ is object.__repr__:  # type: ignore[comparison-overlap]
        return
    try:
        _worker.actor_name = repr(_worker.instance)
    except Exception as error:  # the user's __repr__: an actor is not lost over its looks
        print(f"the __repr__ of {_worker.actor_name} raised {error!r}", file=sys.stderr)


def encode_error(exception: BaseException, name: str, node: str, attempt: int) -> bytes:
    """Make the record of a failed call.

    Args:
        exception: What it raised.
        name: Name of the call.
        node: Hex id of this node.
        attempt: Number of earlier attempts.

    Returns:
        The record.
    """
    if type(exception).__name__ == "BdbQuit" and not exception.args:
        exception.args = (f"pdb asked {name} for a command, and {_NO_TERMINAL}",)
    return encode_exception(exception, task_name=name, pid=os.getpid(), node=node, attempt=attempt)


def cancelled_error(interruption: BaseException, name: str, task_id: bytes, by: str) -> BaseException:
    """Make the error of a call that was cancelled while it ran. Compat: it shows where the call was interrupted, as errors of user code do.

    Args:
        interruption: What its code saw.
        name: Name of the call.
        task_id: Its id.
        by: Who has cancelled it, in words.

    Returns:
        The error.
    """
    from ray._core.ids import TaskID
    from ray.exceptions import TaskCancelledError

    error = TaskCancelledError(TaskID(task_id), cancelled_text(task_id.hex(), name, by))
    if isinstance(interruption, Exception):
        error.__context__ = interruption  # raised by what should have ended quietly
    return error.with_traceback(interruption.__traceback__)


def is_retryable(payload: bytes, exception: BaseException) -> bool:
    """Tell whether a call site wants to be retried after an exception.

    Args:
        payload: Its description.
        exception: What the call raised.

    Returns:
        True if its `retry_exceptions` names it.
    """
    return payloads.is_retryable(_worker.retry_rules.get(payload, False), exception)


def show_devices(devices: dict[str, list[int]]) -> None:
    """Show a call its accelerators and no others.

    Args:
        devices: Indices by resource name; empty restores what the process started with.
    """
    shown_devices().show(devices)


def shown_devices() -> Shown:
    """What this process tells its calls of accelerators."""
    if _worker.shown is None:
        _worker.shown = Shown(os.environ)
    return _worker.shown


THREADS_VARIABLE = "OMP_NUM_THREADS"
"""The one variable that Ray sets. OpenBLAS, MKL, NumExpr and torch fall back to it when their own is not set."""


def set_thread_count(count: int) -> None:
    """Tell numerical libraries how many threads a call may use, so that workers side by side don't each take every core.

    A library that is loaded already has read the variable and keeps its threads. Compat: whole CPUs of the call, at least 1; never over what the
    driver's environment or `runtime_env` says.

    Args:
        count: Whole CPUs that the call holds, at least 1.
    """
    if not _worker.threads_chosen_by_user:
        os.environ[THREADS_VARIABLE] = str(count)


def note_blocking_wait() -> None:
    """A thread of this worker begins to block in get or wait outside of a plain call. Where that is an actor's event loop, say so, once. Compat: Ray warns, too."""
    loop = _worker.loop
    if loop is None or _worker.told_of_blocking or not setting("RAY_WARN_BLOCKING_GET_INSIDE_ASYNC"):
        return
    import asyncio

    if asyncio._get_running_loop() is not loop:
        return
    import logging

    _worker.told_of_blocking = True
    logging.getLogger("ray").warning(
        "ray.get or ray.wait blocks the event loop of the async actor %s: no other call of it goes on meanwhile, and waiting for one of its own calls never ends"
        "\nhint: use `await ref`, or asyncio.wait for several",
        _worker.actor_name,
    )

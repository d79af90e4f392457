"""Errors on the wire: what a failed call writes, and what `get` raises from it.

A record holds several layers: the pickled exception, its class names, its text and the traceback as text. Each layer may fail in the
reader without hiding the next, so an exception that does not pickle, or whose class the reader lacks, still arrives with its names,
its text, its traceback and the nearest base class that both sides have.

Invariants:
1. `encode_exception` and `decode_exception` never raise, whatever the user's exception does.
2. A record holds only built-in values at its top; user data is pickled apart, inside.
3. A record that passes through a process unchanged stays the same bytes.
"""

from __future__ import annotations

import builtins
import functools
import io
import os
import pickle

from ray import exceptions as errors
from ray.exceptions import RayTaskError, rebuild_error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from traceback import FrameSummary, TracebackException
    from typing import Any

RUNTIME_FRAMES_MAX = 3
"""Frames of our own package that a traceback may show."""
CHAIN_DEPTH_MAX = 8
"""How far `__cause__` and `__context__` are followed."""

_PACKAGE_DIR = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep


class ActorExit(SystemExit):
    """Raised by `exit_actor` and `__ray_terminate__`: the worker ends the actor as intended. Derives from SystemExit so that `except Exception` lets it pass."""


def encode_exception(exc: BaseException, *, task_name: str, pid: int, node: str, attempt: int) -> bytes:
    """Make the record of a failed call.

    Args:
        exc: What the call raised.
        task_name: Name of the task or method.
        pid: Process that ran it.
        node: Node that ran it.
        attempt: Number of earlier attempts.

    Returns:
        Bytes for `decode_exception`. If `exc` is the error of a dependency that no user code has touched, its own record.
    """
    cause: BaseException = exc
    if isinstance(exc, RayTaskError):
        if exc.record is not None and not _has_user_frame(exc):
            return exc.record
        cause = exc.cause
    retried = f", attempt={attempt}" if attempt else ""
    header = f"ray::{task_name}() (pid={pid}, node={node}{retried})"
    record = {
        "cause": _pack_chain(cause, set()),
        "text": format_error(exc, header),
        "task_name": task_name,
        "pid": pid,
        "node": node,
        "attempt": attempt,
    }
    return pickle.dumps(record, protocol=5)


def decode_exception(data: bytes) -> BaseException:
    """Make the error that `get` raises from a record.

    Args:
        data: Bytes of `encode_exception`.

    Returns:
        A `RayTaskError` that is also an instance of the user's class where that can be had.
    """
    try:
        record = pickle.loads(data)
        packed, text, name = record["cause"], record["text"], record["task_name"]
    except Exception as e:  # noqa: BLE001  process boundary: a damaged record becomes an error of its own
        return errors.RaySystemError(f"the record of an error could not be read: {e!r}")
    error = RayTaskError(name, text, _unpack_chain(packed), proctitle=f"ray::{name}", pid=record["pid"], ip=record["node"])
    error.bind_record(data, decode_exception)
    return error.as_instanceof_cause()


# Text of the traceback


def format_error(exc: BaseException, header: str) -> str:
    """Render an exception with its causes, user frames first.

    Args:
        exc: The exception.
        header: Stands where Python would say "Traceback (most recent call last):".

    Returns:
        Text without a final newline.
    """
    import traceback

    try:
        summary = traceback.TracebackException.from_exception(exc)
        if isinstance(exc, RayTaskError) and exc.__cause__ is exc.cause.__cause__:
            summary.__cause__ = None  # the text of the error tells it already
        _filter_frames(summary, set())
        lines = list(summary.format())
    except Exception as e:  # noqa: BLE001  a user's __str__ or __getattr__ failed: show what there is
        return f"{header}\n{_type_name(type(exc))}: <text unavailable: {type(e).__name__}>"
    title = "Traceback (most recent call last):"
    at = max((i for i, line in enumerate(lines) if line.strip().endswith(title)), default=None)
    if at is None or isinstance(exc, _GROUPS):
        return f"{header}\n{''.join(lines)}".rstrip("\n")
    lines[at] = lines[at].replace(title, header)
    return "".join(lines).rstrip("\n")


_GROUPS: Any = getattr(builtins, "BaseExceptionGroup", ())  # Python 3.10 has none


def is_runtime_frame(filename: str) -> bool:
    return filename.startswith(_PACKAGE_DIR)


def _has_user_frame(exc: BaseException) -> bool:
    tb = exc.__traceback__
    while tb is not None:
        if not is_runtime_frame(tb.tb_frame.f_code.co_filename):
            return True
        tb = tb.tb_next
    return False


def _filter_frames(summary: TracebackException, seen: set[int]) -> None:
    """Drop the runtime's frames around the user's code, here and in the causes, except the innermost few below it."""
    if id(summary) in seen:
        return
    seen.add(id(summary))
    frames = list(summary.stack)
    first_user = next((i for i, f in enumerate(frames) if not is_runtime_frame(f.filename)), 0)
    kept: list[FrameSummary] = []
    budget = RUNTIME_FRAMES_MAX
    for frame in reversed(frames[first_user:]):
        if is_runtime_frame(frame.filename):
            budget -= 1
            if budget < 0:
                continue
        kept.append(frame)
    summary.stack[:] = reversed(kept)
    for other in (summary.__cause__, summary.__context__, *(getattr(summary, "exceptions", None) or ())):
        if other is not None:
            _filter_frames(other, seen)


# Writing


def _type_name(cls: type) -> str:
    return cls.__qualname__ if cls.__module__ in ("builtins", "__main__") else f"{cls.__module__}.{cls.__qualname__}"


def _pack_chain(exc: BaseException, seen: set[int]) -> dict[str, Any]:
    seen.add(id(exc))
    packed = _pack(exc)
    for key, other in (("__cause__", exc.__cause__), ("__context__", exc.__context__)):
        if other is not None and id(other) not in seen and len(seen) < CHAIN_DEPTH_MAX:
            packed[key] = _pack_chain(other, seen)
    packed["suppress"] = exc.__suppress_context__
    return packed


def _pack(exc: BaseException) -> dict[str, Any]:
    packed: dict[str, Any] = {
        "types": [(c.__module__, c.__qualname__) for c in type(exc).__mro__],
        "message": _safe(lambda: str(exc), "<text unavailable>"),
    }
    for attempt in (lambda: exc, lambda: _Raw(exc, False), lambda: _Raw(exc, True)):
        data = _dumps(attempt)
        if data is not None:
            packed["pickle"] = data
            return packed
    packed["args"] = _dumps(lambda: tuple(_picklable(arg) for arg in exc.args))
    return packed


def _safe(call: Callable[[], Any], default: Any) -> Any:
    try:
        return call()
    except Exception:  # noqa: BLE001  code of the user's exception: its failure is the layer that is skipped
        return default


def _dumps(make: Callable[[], object]) -> bytes | None:
    """Pickle, and try that it unpickles: a class whose `__reduce__` is wrong shows only then."""

    def attempt() -> bytes:
        import cloudpickle

        class Pickler(cloudpickle.Pickler):  # type: ignore[misc]  # made here: importing cloudpickle is not worth it before the first error
            def reducer_override(self, obj: Any) -> Any:
                if isinstance(obj, _Raw):
                    return _reduce_error(obj.exc, obj.filtered)
                if isinstance(obj, BaseException) and _has_builtin_reduce(obj):
                    return _reduce_error(obj, False)
                return super().reducer_override(obj)

        buffer = io.BytesIO()
        Pickler(buffer, protocol=5).dump(make())
        data = buffer.getvalue()
        pickle.loads(data)
        return data

    data: bytes | None = _safe(attempt, None)
    return data


class _Raw:
    """An exception to pickle field by field, past its own `__reduce__`; `filtered` replaces fields that don't pickle by their repr."""

    def __init__(self, exc: BaseException, filtered: bool) -> None:
        self.exc = exc
        self.filtered = filtered


def _has_builtin_reduce(exc: BaseException) -> bool:
    definer = next(c for c in type(exc).__mro__ if "__reduce__" in c.__dict__ or "__reduce_ex__" in c.__dict__)
    return definer.__module__ == "builtins"


def _reduce_error(exc: BaseException, filtered: bool) -> tuple[Any, ...]:
    args, state = exc.args, dict(exc.__dict__)
    if _has_builtin_reduce(exc):
        value = exc.__reduce__()
        assert isinstance(value, tuple)
        args = value[1]
        state.update(value[2] if len(value) > 2 and isinstance(value[2], dict) else {})
    for cls in type(exc).__mro__:
        slots = cls.__dict__.get("__slots__", ())
        for slot in (slots,) if isinstance(slots, str) else slots:
            name = f"_{cls.__name__.lstrip('_')}{slot}" if slot.startswith("__") and not slot.endswith("__") else slot
            if name not in ("__dict__", "__weakref__") and hasattr(exc, name):
                state[name] = getattr(exc, name)
    if filtered:
        args = tuple(_picklable(arg) for arg in args)
        state = {key: _picklable(value) for key, value in state.items()}
    return (rebuild_error, (type(exc), args), state) if state else (rebuild_error, (type(exc), args))


def _picklable(value: object) -> object:
    """The value, or a text about it if it can't be pickled."""
    if _dumps(lambda: value) is not None:
        return value
    return f"<not picklable: {_safe(lambda: repr(value), type(value).__name__)}>"


# Reading


def _unpack_chain(packed: Mapping[str, Any]) -> BaseException:
    exc = _unpack(packed)
    setters: Any = BaseException  # its descriptors, not setattr: a user's class may define __setattr__ or be frozen
    if "__context__" in packed:
        setters.__context__.__set__(exc, _unpack_chain(packed["__context__"]))
    if "__cause__" in packed:
        setters.__cause__.__set__(exc, _unpack_chain(packed["__cause__"]))
    setters.__suppress_context__.__set__(exc, packed.get("suppress", False))
    return exc


def _unpack(packed: Mapping[str, Any]) -> BaseException:
    if "pickle" in packed:
        unpickler = _LenientUnpickler(io.BytesIO(packed["pickle"]), packed)
        exc = _safe(unpickler.load, None)
        if isinstance(exc, BaseException):
            return exc
    args = _safe(lambda: pickle.loads(packed["args"]), None) if packed.get("args") else None
    return rebuild_error(_stand_in(packed), args if isinstance(args, tuple) else (packed["message"],))


class _LenientUnpickler(pickle.Unpickler):
    """Puts a stand-in where the reader lacks a class."""

    def __init__(self, file: io.BytesIO, packed: Mapping[str, Any]) -> None:
        super().__init__(file)
        self._packed = packed

    def find_class(self, module: str, name: str) -> Any:
        try:
            return super().find_class(module, name)
        except (ImportError, AttributeError):
            if (module, name) == tuple(self._packed["types"][0]):
                return _stand_in(self._packed)
            return type(name.rpartition(".")[2], (_MissingObject,), {"__module__": module, "__qualname__": name})


class _MissingObject:
    """Stands for an instance of a class that the reader lacks."""

    def __new__(cls, *_args: object, **_kwargs: object) -> _MissingObject:
        return object.__new__(cls)

    def __init__(self, *args: object, **kwargs: object) -> None: ...

    def __setstate__(self, state: object) -> None: ...

    def __repr__(self) -> str:
        return f"<{type(self).__module__}.{type(self).__qualname__} object: its class can't be imported here>"


def _stand_in(packed: Mapping[str, Any]) -> type[BaseException]:
    """Make a class with the names of one that the reader lacks, derived from the nearest base that it has."""
    module, name = packed["types"][0]
    base = next(filter(None, (_safe(functools.partial(_find_error_class, *names), None) for names in packed["types"][1:])), Exception)
    text = packed["message"]
    body = {"__module__": module, "__qualname__": name, "__str__": lambda _self: text, "__doc__": "Stands for a class that can't be imported here."}
    try:
        return type(name.rpartition(".")[2], (base,), body)
    except Exception:  # noqa: BLE001  the base forbids deriving: the widest one does not
        return type(name.rpartition(".")[2], (Exception,), body)


def _find_error_class(module: str, name: str) -> type[BaseException] | None:
    import importlib

    found: Any = importlib.import_module(module)
    for part in name.split("."):
        found = getattr(found, part)
    return found if isinstance(found, type) and issubclass(found, BaseException) else None


# Errors of the engine


def system_error(fields: Mapping[str, str], cause: BaseException | None = None) -> BaseException:
    """Make the public error for a record of the engine.

    Args:
        fields: "code", "message" (full text with the evidence), and where known "actor_id", "task_id", "object_id" (hex), "pid",
            "class_name", "name".
        cause: The user's error for "actor_init_failed".

    Returns:
        The error to raise.
    """
    make = _SYSTEM_ERRORS.get(fields.get("code", ""))
    message = fields.get("message", "")
    if make is None:
        return errors.RaySystemError(f"{message} (unknown code {fields.get('code')!r})")
    error = make(fields, message)
    if fields.get("code") == "actor_init_failed" and cause is not None:
        error = errors.ActorDiedError.from_task_error(_as_task_error(cause, fields))
        error.__cause__ = cause.cause if isinstance(cause, RayTaskError) else cause
    if isinstance(error, errors.RayActorError) and error.actor_id is None:
        error.actor_id = fields.get("actor_id")
    return error


def _as_task_error(cause: BaseException, fields: Mapping[str, str]) -> RayTaskError:
    if isinstance(cause, RayTaskError):
        return cause
    name = f"{fields.get('class_name', 'Actor')}.__init__"
    return RayTaskError(name, f"{type(cause).__name__}: {cause}", cause, actor_id=fields.get("actor_id"))


def _actor_died(fields: Mapping[str, str], message: str) -> errors.RayActorError:
    error = errors.ActorDiedError(message or None)
    error._actor_init_failed = fields.get("code") == "actor_init_failed"
    return error


def _actor_unavailable(fields: Mapping[str, str], message: str) -> errors.RayActorError:
    actor_id = fields.get("actor_id")
    return errors.ActorUnavailableError(message, bytes.fromhex(actor_id) if actor_id else None)


def _object_error(cls: type[errors.ObjectLostError]) -> Callable[[Mapping[str, str], str], BaseException]:
    return lambda fields, message: cls(fields.get("object_id", ""), message=message)


def cancelled_text(task_id: str, name: str, by: str) -> str:
    """Say what was cancelled, and by whom.

    Args:
        task_id: Its id in hex.
        name: Its name.
        by: Who has cancelled it, in words.

    Returns:
        A sentence.
    """
    return f"Task {task_id} ({name}) was cancelled by {by}."


def _cancelled(fields: Mapping[str, str], message: str) -> BaseException:
    from ray._core.ids import TaskID

    task_id = fields.get("task_id")
    if not message and task_id:
        message = cancelled_text(task_id, fields.get("name", ""), fields.get("by", ""))
    return errors.TaskCancelledError(TaskID.from_hex(task_id) if task_id else None, message or None)


def _unschedulable(fields: Mapping[str, str], message: str) -> BaseException:
    return errors.ActorUnschedulableError(message) if fields.get("actor_id") else errors.TaskUnschedulableError(message)


def _text_error(cls: Callable[[str], BaseException]) -> Callable[[Mapping[str, str], str], BaseException]:
    return lambda _fields, message: cls(message)


_SYSTEM_ERRORS: dict[str, Callable[[Mapping[str, str], str], BaseException]] = {
    "worker_crashed": _text_error(errors.WorkerCrashedError),
    "actor_died": _actor_died,
    "actor_init_failed": _actor_died,
    "actor_unavailable": _actor_unavailable,
    "owner_died": _object_error(errors.OwnerDiedError),
    "object_lost": _object_error(errors.ObjectLostError),
    "object_freed": _object_error(errors.ObjectFreedError),
    "store_full": _text_error(errors.ObjectStoreFullError),
    "disk_full": _text_error(errors.OutOfDiskError),
    "system": _text_error(errors.RaySystemError),
    "out_of_memory": _text_error(errors.OutOfMemoryError),
    "daemon_died": _text_error(errors.LocalRayletDiedError),
    "cancelled": _cancelled,
    "pending_calls": _text_error(errors.PendingCallsLimitExceeded),
    "unschedulable": _unschedulable,
    "task_group_removed": _text_error(errors.TaskPlacementGroupRemoved),
    "actor_group_removed": _text_error(errors.ActorPlacementGroupRemoved),
    "get_timeout": _text_error(errors.GetTimeoutError),
    "stream_end": _text_error(errors.ObjectRefStreamEndOfStreamError),
    "stream_replay": _text_error(errors.StreamingGeneratorReplayInconsistentError),
}

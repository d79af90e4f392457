"""Every error that the runtime raises, as one tree under `RayError`.

What it is: plain classes without any dependency on the engine, so that they can be raised, caught and unpickled anywhere.
What it is not: the encoding of errors on the wire (see `ray._core.errors`).

Invariants:
1. Each error survives `pickle.loads(pickle.dumps(error))` with its type name, text and attributes.
2. An error made from a user's exception is an instance of the user's class too (`RayTaskError.as_instanceof_cause`).
3. No text lists guesses: it says what is known, and which id it is about.
"""

from __future__ import annotations

TYPE_CHECKING = False  # spelled out: `typing` is not worth loading at run time for annotations only
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TypeVar

    E = TypeVar("E", bound=BaseException)

__all__ = [
    "ActorAlreadyExistsError",
    "ActorDiedError",
    "ActorHandleNotFoundError",
    "ActorPlacementGroupRemoved",
    "ActorUnavailableError",
    "ActorUnschedulableError",
    "AsyncioActorExit",
    "AuthenticationError",
    "CrossLanguageError",
    "GetTimeoutError",
    "LocalRayletDiedError",
    "NodeDiedError",
    "ObjectFetchTimedOutError",
    "ObjectFreedError",
    "ObjectLostError",
    "ObjectReconstructionFailedError",
    "ObjectRefStreamEndOfStreamError",
    "ObjectStoreFullError",
    "OufOfBandObjectRefSerializationException",
    "OutOfDiskError",
    "OutOfMemoryError",
    "OwnerDiedError",
    "PendingCallsLimitExceeded",
    "PlasmaObjectNotAvailable",
    "RayActorError",
    "RayCgraphCapacityExceeded",
    "RayChannelError",
    "RayChannelTimeoutError",
    "RayDirectTransportError",
    "RayError",
    "RaySystemError",
    "RayTaskError",
    "ReferenceCountingAssertionError",
    "RpcError",
    "RuntimeEnvSetupError",
    "StreamingGeneratorReplayInconsistentError",
    "TaskCancelledError",
    "TaskPlacementGroupRemoved",
    "TaskUnschedulableError",
    "UnserializableException",
    "UserCodeException",
    "WorkerCrashedError",
]


def rebuild_error(cls: type[E], args: tuple[Any, ...]) -> E:
    """Make an exception without calling the `__init__` of its class.

    Unpickling an exception normally calls `cls(*args)`, which fails or doubles text as soon as `__init__` takes other arguments than
    it hands to `super()`. The built-in base fills its own fields (`errno`, `value`, ...); everything else comes with the state.

    Args:
        cls: Class of the exception.
        args: Its `args`.

    Returns:
        The exception with these `args` and without any other attribute.
    """
    error, base = _new_error(cls, args)
    try:
        base.__init__(error, *args)  # type: ignore[misc]  # sets `args`, as OSError and its like see fit
    except TypeError:  # a base that wants other arguments than these
        error.args = args
    return error


def _new_error(cls: type[E], args: tuple[Any, ...]) -> tuple[E, type]:
    """Make a bare exception by the `__new__` of its built-in base, and give that base.

    With several built-in bases only the one that fixes the layout may make it; Python says which by refusing the others.
    """
    for base in cls.__mro__:
        if base.__module__ == "builtins":
            try:
                return base.__new__(cls, *args), base
            except TypeError:
                continue
    raise TypeError(f"no built-in base of {cls.__qualname__} takes {args!r:.100}")


class RayError(Exception):
    """Base of every error of the runtime."""

    def __reduce__(self) -> tuple[Any, ...]:
        return rebuild_error, (type(self), self.args), self.__dict__.copy()

    def to_bytes(self) -> bytes:
        """Encode the error.

        Returns:
            Bytes for `from_bytes`.
        """
        import cloudpickle

        data: bytes = cloudpickle.dumps(self)
        return data

    @staticmethod
    def from_bytes(b: bytes) -> RayError:
        """Decode what `to_bytes` made.

        Args:
            b: Bytes of a trusted peer: they are unpickled.

        Returns:
            The error.
        """
        import pickle

        error: RayError = pickle.loads(b)
        return error

    @staticmethod
    def from_ray_exception(ray_exception: BaseException) -> BaseException:
        """Give the error that a task error was made from.

        Args:
            ray_exception: Any error.

        Returns:
            Its cause if it is a `RayTaskError`, else the error itself.
        """
        return ray_exception.cause if isinstance(ray_exception, RayTaskError) else ray_exception


class _TextError(RayError):
    """An error whose text is its last argument, or a fixed sentence without one."""

    _DEFAULT = ""

    def __str__(self) -> str:
        text = " ".join(str(arg) for arg in self.args)
        return text or self._DEFAULT


class CrossLanguageError(RayError):
    """An error raised by code in another language.

    Args:
        ray_exception: The foreign error, or its text.
    """

    def __init__(self, ray_exception: object) -> None:
        super().__init__(ray_exception)
        self.ray_exception = ray_exception

    def __str__(self) -> str:
        return f"An exception raised from another language:\n{self.ray_exception}"


class TaskCancelledError(RayError):
    """The call was cancelled, or depends on one that was.

    Args:
        task_id: Id of the cancelled task.
        error_message: Text to show instead of the usual sentence.
    """

    def __init__(self, task_id: Any = None, error_message: str | None = None) -> None:
        super().__init__(*(() if task_id is None and error_message is None else (task_id, error_message)))
        self.task_id = task_id
        self.error_message = error_message

    def __str__(self) -> str:
        if self.error_message:
            return self.error_message
        return "" if self.task_id is None else f"Task {self.task_id} was cancelled."


class RayTaskError(RayError):
    """User code of a task or actor method raised an error.

    What `ray.get` raises is the result of `as_instanceof_cause`: catch it as your own exception class, or as `RayTaskError`.

    Args:
        function_name: Name of the task or method.
        traceback_str: Text of the traceback where it was raised.
        cause: The user's exception.
        proctitle: Title of the process that raised it.
        pid: Id of that process.
        ip: Address of its node.
        actor_repr: `repr` of the actor, for a method.
        actor_id: Id of the actor in hex, for a method.
    """

    def __init__(
        self,
        function_name: str,
        traceback_str: str,
        cause: BaseException,
        proctitle: str | None = None,
        pid: int | None = None,
        ip: str | None = None,
        actor_repr: str | None = None,
        actor_id: str | None = None,
    ) -> None:
        super().__init__(function_name, traceback_str, cause, proctitle, pid, ip)
        self.function_name = function_name
        self.traceback_str = traceback_str
        self.cause = cause
        self.proctitle = proctitle
        self.pid = pid
        self.ip = ip
        self.actor_repr = actor_repr
        self._actor_id = actor_id
        self._record: bytes | None = None
        self._decode: Callable[[bytes], BaseException] | None = None

    def bind_record(self, record: bytes, decode: Callable[[bytes], BaseException]) -> None:
        """Remember the encoded form, which pickles even where the cause itself does not.

        Args:
            record: The bytes that this error was decoded from.
            decode: Importable function that decodes them.
        """
        self._record = record
        self._decode = decode

    @property
    def record(self) -> bytes | None:
        """The encoded form that this error was decoded from."""
        return self._record

    def __reduce__(self) -> tuple[Any, ...]:
        if self._record is not None:
            return _decode_plain, (self._decode, self._record)
        by_fields = _ByFields(self.cause)
        args = tuple(by_fields if arg is self.cause else arg for arg in self.args)
        return rebuild_error, (type(self), args), {**self.__dict__, "cause": by_fields}

    def __str__(self) -> str:
        return self.traceback_str

    def as_instanceof_cause(self) -> RayTaskError:
        """Make an error that is an instance of both `RayTaskError` and the class of the cause.

        Returns:
            The combined error; this error itself where the two classes cannot be combined.
        """
        cause_cls = type(self.cause)
        if isinstance(self.cause, RayTaskError) or not isinstance(self.cause, Exception) or issubclass(RayTaskError, cause_cls):
            return self
        return self.make_dual_exception_instance()

    def make_dual_exception_instance(self) -> RayTaskError:
        """Make the error for `as_instanceof_cause` without checking whether one is wanted.

        Returns:
            The combined error, or this error where Python cannot derive from both classes.
        """
        name = f"RayTaskError({type(self.cause).__name__})"
        try:
            cls = type(name, (_DualMixin, RayTaskError, type(self.cause)), {"__module__": __name__, "__qualname__": name})
            dual: RayTaskError = _new_error(cls, self.cause.args)[0]
        except Exception:  # noqa: BLE001  the user's metaclass, __init_subclass__ or layout refuses: converted to the plain error
            return self
        dual.__dict__.update(cause=self.cause, _task_error=self)
        dual.args = (self.cause,)
        dual.__suppress_context__ = False
        dual.__cause__ = self.cause.__cause__
        return dual


class _DualMixin:
    """Lookup order of a combined error: the protocol of exceptions and of RayTaskError, then the cause, then the fields of the task error."""

    _OWN = frozenset(
        ["add_note", "args", "as_instanceof_cause", "bind_record", "cause", "from_bytes", "from_ray_exception"]
        + ["make_dual_exception_instance", "record", "to_bytes", "with_traceback", "_decode", "_record", "_task_error"]
    )

    if not TYPE_CHECKING:

        def __getattribute__(self, name: str) -> Any:
            if name.startswith("__") or name in _DualMixin._OWN:
                return super().__getattribute__(name)
            own = super().__getattribute__("__dict__")
            if name in own:
                return own[name]
            # The cause itself answers, not our copy of its class: its C level fields (errno, start, code) live there only.
            for source in (own["cause"], own["_task_error"]):
                try:
                    return getattr(source, name)
                except AttributeError:
                    continue
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

        @property
        def _record(self) -> bytes | None:
            return self.__dict__["_task_error"]._record

        @property
        def _decode(self) -> Callable[[bytes], BaseException] | None:
            return self.__dict__["_task_error"]._decode

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            """The state is set by the maker; the classes behind must not see a second construction."""

        def __reduce__(self) -> tuple[Any, ...]:
            error = self.__dict__["_task_error"]
            extra = {k: v for k, v in self.__dict__.items() if k not in ("cause", "_task_error")}
            return (_rebuild_dual, (error,), extra) if extra else (_rebuild_dual, (error,))

        def __str__(self) -> str:
            return self.__dict__["_task_error"].traceback_str

        def __repr__(self) -> str:
            return f"{type(self).__name__}({self.__dict__['cause']!r})"

        def __setattr__(self, name: str, value: Any) -> None:
            object.__setattr__(self, name, value)  # the user's class may be frozen; what is raised gets a traceback and notes

        def __hash__(self) -> int:
            return object.__hash__(self)

        def __eq__(self, other: object) -> bool:
            return self is other

        def as_instanceof_cause(self) -> RayTaskError:
            return self


class _ByFields:
    """Stands for an exception in a pickle, so that unpickling does not call its constructor."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __reduce__(self) -> tuple[Any, ...]:
        return rebuild_error, (type(self.error), self.error.args), self.error.__dict__ or None


def _rebuild_dual(error: RayTaskError) -> RayTaskError:
    return error.as_instanceof_cause()


def _decode_plain(decode: Callable[[bytes], BaseException], record: bytes) -> BaseException:
    error = decode(record)
    plain = getattr(error, "_task_error", error)
    return plain if isinstance(plain, BaseException) else error


class LocalRayletDiedError(_TextError):
    """The daemon of the node that ran the task died."""

    _DEFAULT = "The daemon of the node that was to run the task has died."


class WorkerCrashedError(_TextError):
    """The worker process died while it ran the task. The text carries the exit code or signal."""

    _DEFAULT = "The worker process died while it executed the task."


class RayActorError(RayError):
    """An actor can't be reached, or died, before the call finished.

    Args:
        actor_id: Id of the actor in hex.
        error_msg: Text with the evidence.
        actor_init_failed: Whether the constructor of the actor raised.
        preempted: Whether the node was taken away.
    """

    BASE_ERROR_MSG = "The actor experienced an error before finishing this task."

    def __init__(self, actor_id: str | None = None, error_msg: str = BASE_ERROR_MSG, actor_init_failed: bool = False, preempted: bool = False) -> None:
        super().__init__(*(() if actor_id is None and error_msg == self.BASE_ERROR_MSG else (actor_id, error_msg)))
        self.actor_id = actor_id
        self.error_msg = error_msg
        self._actor_init_failed = actor_init_failed
        self._preempted = preempted

    def __str__(self) -> str:
        return self.error_msg

    @property
    def actor_init_failed(self) -> bool:
        """Whether the constructor of the actor raised."""
        return self._actor_init_failed

    @property
    def preempted(self) -> bool:
        """Whether the actor died because its node was taken away."""
        return self._preempted


class ActorDiedError(RayActorError):
    """The actor is dead for good.

    Args:
        cause: The error of its constructor, a text with the evidence, or None.
    """

    BASE_ERROR_MSG = "The actor died unexpectedly before finishing this task."

    def __init__(self, cause: RayTaskError | str | None = None) -> None:
        text, actor_id = self.BASE_ERROR_MSG, None
        if isinstance(cause, RayTaskError):
            text = f"The actor died because its constructor raised an error: {cause}"
            actor_id = cause._actor_id
        elif cause is not None:
            text = str(cause)
        super().__init__(actor_id, text, actor_init_failed=isinstance(cause, RayTaskError))
        self.args = () if cause is None else (self.error_msg,)

    @staticmethod
    def from_task_error(task_error: RayTaskError) -> ActorDiedError:
        """Make the error for an actor whose constructor raised.

        Args:
            task_error: The error of the constructor.

        Returns:
            An error with `actor_init_failed` set.
        """
        return ActorDiedError(task_error)


class ActorUnavailableError(RayActorError):
    """The actor can't be reached for now; the call may or may not have run.

    Args:
        error_message: Text with the evidence.
        actor_id: Id of the actor, 16 bytes.
    """

    def __init__(self, error_message: str, actor_id: bytes | None) -> None:
        hex_id = None if actor_id is None else actor_id.hex()
        text = f"The actor {hex_id} is unavailable: {error_message}. The call may or may not have been executed."
        super().__init__(hex_id, text)
        self.args = (error_message, actor_id)


class RaySystemError(RayError):
    """The runtime itself failed.

    Args:
        client_exc: The error, or its text.
        traceback_str: Text of its traceback.
    """

    def __init__(self, client_exc: object, traceback_str: str | None = None) -> None:
        super().__init__(*((client_exc,) if traceback_str is None else (client_exc, traceback_str)))
        self.client_exc = client_exc
        self.traceback_str = traceback_str

    def __str__(self) -> str:
        tail = f"\ntraceback: {self.traceback_str}" if self.traceback_str else ""
        return f"System error: {self.client_exc}{tail}"


class UserCodeException(RayError):
    """Code that a user handed to a library raised."""


class AuthenticationError(RayError):
    """A peer did not present the token of the cluster.

    Args:
        message: What was refused, by whom.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message

    def __str__(self) -> str:
        if "hint:" in self.message:
            return self.message
        return f"{self.message}\nhint: set RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH, or put the token in ~/.ray/auth_token."


class ObjectStoreFullError(_TextError):
    """The object store has no room, and nothing in it may be evicted."""

    _DEFAULT = "The object store of this node is full of objects that are still referenced."


class OutOfDiskError(_TextError):
    """The disk for spilled objects is full."""

    _DEFAULT = "The object store is full and the disk for spilled objects has no room left."


class OutOfMemoryError(RayError):
    """The memory monitor killed the task or actor because its node ran out of memory.

    Args:
        message: What was killed, its peak memory, and the limit.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class NodeDiedError(RayError):
    """A node died.

    Args:
        message: Which node, and the evidence.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class ObjectLostError(RayError):
    """All copies of an object are gone.

    Args:
        object_ref_hex: Id of the object in hex.
        owner_address: Address of its owner.
        call_site: Where the reference was made, if that was recorded.
        message: Text with the evidence, instead of the usual sentence.
    """

    _REASON = "All copies of the object have been lost."

    def __init__(self, object_ref_hex: str, owner_address: Any = None, call_site: str = "", message: str = "") -> None:
        super().__init__(object_ref_hex, owner_address, call_site)
        self.object_ref_hex = object_ref_hex
        self.owner_address = owner_address
        self.call_site = call_site
        self.message = message

    def __str__(self) -> str:
        site = f" The reference was made at: {self.call_site}" if self.call_site else ""
        return f"Failed to retrieve object {self.object_ref_hex}.{site}\n\n{self.message or self._REASON}"


class ObjectFetchTimedOutError(ObjectLostError):
    """No node could serve the object in time."""

    _REASON = "No node that holds a copy answered in time."


class RpcError(RayError):
    """A remote call between processes of the runtime failed.

    Args:
        message: What failed.
        rpc_code: Status code of the transport.
    """

    def __init__(self, message: str, rpc_code: int | None = None) -> None:
        super().__init__(message, rpc_code)
        self.message = message
        self.rpc_code = rpc_code

    def __str__(self) -> str:
        return self.message


class ReferenceCountingAssertionError(ObjectLostError, AssertionError):
    """The object was freed although a reference to it exists."""

    _REASON = "The object was already freed by reference counting although this reference exists."


class ObjectFreedError(ObjectLostError):
    """The object was freed by hand."""

    _REASON = "The object was freed by an explicit call."


class OwnerDiedError(ObjectLostError):
    """The process that created the object is gone, and the value with it."""

    _REASON = "The owner of the object, the process that created the reference, has exited."


class ObjectReconstructionFailedError(ObjectLostError):
    """The object was lost and its task could not be run again.

    Args:
        object_ref_hex: Id of the object in hex.
        reason: Code of the reason.
        reason_message: The reason in words.
        owner_address: Address of its owner.
        call_site: Where the reference was made, if that was recorded.
    """

    def __init__(self, object_ref_hex: str, reason: Any = None, reason_message: str | None = None, owner_address: Any = None, call_site: str = "") -> None:
        super().__init__(object_ref_hex, owner_address, call_site, reason_message or "The task that made it could not be run again.")
        self.args = (object_ref_hex, reason, reason_message)
        self.reason = reason
        self.reason_message = reason_message


class GetTimeoutError(RayError, TimeoutError):
    """`ray.get` ran out of time."""


class PlasmaObjectNotAvailable(RayError):
    """An object is not in the store of this node at the moment."""


class AsyncioActorExit(RayError):
    """Ends an async actor from within."""


class RuntimeEnvSetupError(RayError):
    """The environment of a task, actor or job could not be built.

    Args:
        error_message: The last lines of what failed.
    """

    def __init__(self, error_message: str | None = None) -> None:
        super().__init__(*(() if error_message is None else (error_message,)))
        self.error_message = error_message

    def __str__(self) -> str:
        tail = f"\n{self.error_message}" if self.error_message else ""
        return f"Failed to set up runtime environment.{tail}"


class TaskPlacementGroupRemoved(_TextError):
    """The placement group of the task was removed."""

    _DEFAULT = "The placement group of this task has been removed."


class ActorPlacementGroupRemoved(_TextError):
    """The placement group of the actor was removed."""

    _DEFAULT = "The placement group of this actor has been removed."


class PendingCallsLimitExceeded(RayError):
    """The actor has as many unfinished calls as `max_pending_calls` allows, or the calls of this process keep too much memory and waiting would not help."""


class TaskUnschedulableError(RayError):
    """No node can ever run the task.

    Args:
        error_message: Which demand can't be met.
    """

    def __init__(self, error_message: str) -> None:
        super().__init__(error_message)
        self.error_message = error_message

    def __str__(self) -> str:
        return f"The task is not schedulable: {self.error_message}"


class ActorUnschedulableError(RayError):
    """No node can ever run the actor.

    Args:
        error_message: Which demand can't be met.
    """

    def __init__(self, error_message: str) -> None:
        super().__init__(error_message)
        self.error_message = error_message

    def __str__(self) -> str:
        return f"The actor is not schedulable: {self.error_message}"


class ObjectRefStreamEndOfStreamError(RayError):
    """A streaming generator has no more items."""


class StreamingGeneratorReplayInconsistentError(RaySystemError):
    """A streaming generator that was run again yielded something else than the first time."""


class OufOfBandObjectRefSerializationException(RayError):
    """A reference was pickled outside the runtime although that is forbidden here."""


class RayChannelError(RaySystemError):
    """A channel between actors failed."""


class RayChannelTimeoutError(RayChannelError, TimeoutError):
    """A channel between actors did not deliver in time."""


class RayCgraphCapacityExceeded(RaySystemError):
    """A compiled graph has as many unread results as it may buffer."""


class RayDirectTransportError(RaySystemError):
    """A tensor could not be moved directly between actors."""


class UnserializableException(RayError):
    """An exception arrived that this process can't rebuild.

    Args:
        original_stack_trace: Its type, text and traceback.
    """

    def __init__(self, original_stack_trace: str) -> None:
        super().__init__(original_stack_trace)
        self._original_stack_trace = original_stack_trace

    def __str__(self) -> str:
        return f"The exception could not be rebuilt in this process. It was:\n{self._original_stack_trace}"


class ActorAlreadyExistsError(ValueError, RayError):
    """The name for a new actor is taken.

    Args:
        error_message: Which name in which namespace.
    """

    def __init__(self, error_message: str) -> None:
        super().__init__(error_message)
        self.error_message = error_message


class ActorHandleNotFoundError(ValueError, RayError):
    """A handle refers to an actor that this cluster does not know.

    Args:
        error_message: Which actor.
    """

    def __init__(self, error_message: str) -> None:
        super().__init__(error_message)
        self.error_message = error_message

"""Remote functions, and `ray.remote`.

The way of a call: `RemoteFunction.remote` finds the native template of the current engine and calls it. Everything that is the same
for all calls (pickled function, options, signature) is in the template, built at the first call after each `ray.init`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import BuiltinFunctionType, FunctionType
from typing import TYPE_CHECKING, Any, Concatenate, Generic, Literal, NoReturn, ParamSpec, Protocol, TypeVar, overload

from ray._core import session
from ray._core.calls.decorators import decorated_target
from ray._core.calls.groups import check_request
from ray._core.calls.options import (
    VARIANTS_MAX,
    assemble_resources,
    check_is_generator,
    check_task_options,
    options_key,
)
from ray._core.calls.signatures import CallSignature, is_async_generator, is_coroutine, is_generator, signature_of
from ray._core.calls.strategies import follows_caller, group_of, strategy_of
from ray._core.config import env

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ray._core.calls.decorators import RemoteOptions, TaskCallOptions
    from ray._core.generators import ObjectRefGenerator
    from ray._native import CallTemplate, Core, ObjectRef
    from ray.actor import ActorClass

F = TypeVar("F", bound=Callable[..., Any])
"""What `.remote` is: the parameters of the function, and the reference or references that come back."""
P = ParamSpec("P")
P2 = ParamSpec("P2")
R = TypeVar("R")
T = TypeVar("T")
A0 = TypeVar("A0")
A1 = TypeVar("A1")
A2 = TypeVar("A2")
A3 = TypeVar("A3")
A4 = TypeVar("A4")

__all__ = ["RemoteFunction", "remote"]

_METADATA = ("__module__", "__name__", "__qualname__", "__doc__", "__annotations__")
_NEVER: Any = object()
"""Stands for "no engine yet": unlike None it is never the engine."""


class _Export:
    """A function as it is sent: pickled once per engine and set of retried exceptions. Shared by all variants of one remote function."""

    __slots__ = ("_epoch", "_payloads", "_signature", "function")

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self._signature: CallSignature | None = None
        self._epoch = session.epoch
        self._payloads: dict[Any, bytes] = {}

    @property
    def signature(self) -> CallSignature:
        if self._signature is None:
            self._signature = signature_of(self.function)
        return self._signature

    def payload(self, retry_exceptions: bool | tuple[type[BaseException], ...], record: bool) -> bytes:
        from ray._core.serialization import dumps_payload

        if self._epoch != session.epoch:
            self._epoch, self._payloads = session.epoch, {}
        data = self._payloads.get((retry_exceptions, record))
        if data is None:
            data = dumps_payload({"kind": "function", "function": self.function, "retry_exceptions": retry_exceptions, "record": record})
            self._payloads[retry_exceptions, record] = data
        return data


class RemoteFunction(Generic[F]):
    """A function that runs as a task. Made by `ray.remote`.

    Example:
        >>> @ray.remote
        ... def add(a, b):
        ...     return a + b
        >>> ray.get(add.remote(1, 2))
        3
    """

    def __init__(self, function: Callable[..., Any], task_options: dict[str, Any], export: Any = None) -> None:
        self._function = function
        self._default_options = task_options
        self._export: _Export = _Export(function) if export is None else export
        self._bound: tuple[Core, CallTemplate] = (_NEVER, _NEVER)
        self._variants: dict[Any, RemoteFunction[Any]] = {}
        self.__dict__.update({name: getattr(function, name, None) for name in _METADATA})
        self.__wrapped__ = function

    # A type checker tries these in turn: all arguments as they are, then with references among the first one, two, ... of them.
    # mypy needs each reference spelled out as a union; keyword arguments are checked as plain values only.
    @overload
    def remote(self: RemoteFunction[Callable[P, R]], /, *args: P.args, **kwargs: P.kwargs) -> R: ...
    @overload
    def remote(self: RemoteFunction[Callable[Concatenate[A0, P2], R]], a0: A0 | ObjectRef[A0], /, *args: P2.args, **kwargs: P2.kwargs) -> R: ...
    @overload
    def remote(
        self: RemoteFunction[Callable[Concatenate[A0, A1, P2], R]], a0: A0 | ObjectRef[A0], a1: A1 | ObjectRef[A1], /, *args: P2.args, **kwargs: P2.kwargs
    ) -> R: ...
    @overload
    def remote(
        self: RemoteFunction[Callable[Concatenate[A0, A1, A2, P2], R]],
        a0: A0 | ObjectRef[A0],
        a1: A1 | ObjectRef[A1],
        a2: A2 | ObjectRef[A2],
        /,
        *args: P2.args,
        **kwargs: P2.kwargs,
    ) -> R: ...
    @overload
    def remote(
        self: RemoteFunction[Callable[Concatenate[A0, A1, A2, A3, P2], R]],
        a0: A0 | ObjectRef[A0],
        a1: A1 | ObjectRef[A1],
        a2: A2 | ObjectRef[A2],
        a3: A3 | ObjectRef[A3],
        /,
        *args: P2.args,
        **kwargs: P2.kwargs,
    ) -> R: ...
    @overload
    def remote(
        self: RemoteFunction[Callable[Concatenate[A0, A1, A2, A3, A4, P2], R]],
        a0: A0 | ObjectRef[A0],
        a1: A1 | ObjectRef[A1],
        a2: A2 | ObjectRef[A2],
        a3: A3 | ObjectRef[A3],
        a4: A4 | ObjectRef[A4],
        /,
        *args: P2.args,
        **kwargs: P2.kwargs,
    ) -> R: ...
    def remote(self: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Start a task.

        Args:
            *args: Arguments of the function. A reference stands for its value.
            **kwargs: Keyword arguments of the function.

        Returns:
            A reference to the result; a list of them for `num_returns` above 1, None for 0. An `ObjectRefGenerator` of a generator function.

        Raises:
            TypeError: The arguments don't fit the function, or can't be pickled.
        """
        core, template = self._bound
        if core is not session.core:
            template = self._bind()
        return template(*args, **kwargs)

    def _bind(self) -> CallTemplate:
        """Build the template for the current engine, starting one if there is none."""
        from ray._core.environment import canonical_env

        core = session.auto_init()
        options = self._default_options
        retry = options.get("retry_exceptions") or False
        retry = tuple(retry) if isinstance(retry, (list, tuple)) else bool(retry)
        max_retries, num_returns = options.get("max_retries"), options.get("num_returns")
        signature = self._export.signature
        resources = assemble_resources(options, default_cpus=1.0)
        place = group_of(options)
        if place is not None:
            check_request(place.placement_group, place.placement_group_bundle_index, self._function_name, resources)
        template = session.template_class().task(
            core,
            payload=self._export.payload(retry, options.get("enable_task_events", True)),
            name=options.get("name") or self.__dict__["__name__"],
            num_returns=("streaming" if is_generator(self._function) else 1) if num_returns is None else num_returns,
            backpressure=options.get("_generator_backpressure_num_objects") or -1,
            max_retries=env("RAY_TASK_MAX_RETRIES") if max_retries is None else max_retries,
            retry_exceptions=bool(retry),
            max_calls=options.get("max_calls") or 0,
            resources=resources,
            strategy=strategy_of(options, core.context),
            follows=follows_caller(options),
            env=canonical_env(options.get("runtime_env"), core.context()["env"]),
            min_args=signature.min_args,
            max_args=signature.max_args,
            binder=signature.bind,
        )
        self._bound = (core, template)
        session.tell_at_end(self)
        return template

    def forget_engine(self) -> None:
        """Let go of the template: the session has ended."""
        self._bound = (_NEVER, _NEVER)

    @overload
    def options(  # pyright: ignore[reportOverlappingOverload]  # 0 is an int too
        self: RemoteFunction[Callable[P, Any]], *, num_returns: Literal[0], **task_options: Unpack[TaskCallOptions]
    ) -> RemoteFunction[Callable[P, None]]: ...
    @overload
    def options(
        self: RemoteFunction[Callable[P, Any]], *, num_returns: Literal[1] | None, **task_options: Unpack[TaskCallOptions]
    ) -> RemoteFunction[Callable[P, ObjectRef[Any]]]: ...
    @overload
    def options(
        self: RemoteFunction[Callable[P, Any]], *, num_returns: int, **task_options: Unpack[TaskCallOptions]
    ) -> RemoteFunction[Callable[P, list[ObjectRef[Any]]]]: ...
    @overload
    def options(self, **task_options: Unpack[TaskCallOptions]) -> RemoteFunction[F]: ...
    def options(self, **task_options: Any) -> Any:
        """Give the same function with other options.

        Args:
            **task_options: Options of `ray.remote` for tasks, except `max_calls`.

        Returns:
            A remote function. Equal options give the same one, so this may stand in a loop.

        Raises:
            ValueError: An unknown option or a bad value.
            TypeError: An option of the wrong type.
            NotImplementedError: An option that is not available yet.

        Example:
            >>> add.options(num_cpus=2, name="big add").remote(1, 2)
        """
        key = options_key(task_options)
        found = self._variants.get(key) if key is not None else None
        if found is None:
            check_task_options(task_options, in_options=True)
            check_is_generator(task_options.get("num_returns"), is_generator(self._function), self._function_name)
            given = {k: v for k, v in task_options.items() if k != "runtime_env" or v}
            found = RemoteFunction(self._function, {**self._default_options, **given}, self._export)
            if key is not None:
                if len(self._variants) >= VARIANTS_MAX:
                    self._variants.pop(next(iter(self._variants)), None)
                self._variants[key] = found
        return found

    def _remote(self, args: Any = None, kwargs: Any = None, **task_options: Any) -> Any:
        """Start a task with arguments and options in one call. Compat: used by libraries written for Ray."""
        function: Any = self.options(**task_options) if task_options else self
        return function.remote(*(args or ()), **(kwargs or {}))

    def bind(self, /, *args: Any, **kwargs: Any) -> NoReturn:
        """Build a graph node. Not available yet.

        Raises:
            NotImplementedError: Always.
        """
        raise NotImplementedError(f"{self!r}.bind(): graphs are not available yet\nhint: use .remote()")

    if not TYPE_CHECKING:  # to a type checker it is not callable

        def __call__(self, /, *_args: Any, **_kwargs: Any) -> NoReturn:
            """Refuse a direct call.

            Raises:
                TypeError: Always.
            """
            name = self.__dict__["__name__"]
            raise TypeError(f"the remote function {self._function_name} can't be called directly\nhint: write {name}.remote(...)")

    @property
    def _function_name(self) -> str:
        return f"{self.__dict__['__module__']}.{self.__dict__['__qualname__']}"

    def __repr__(self) -> str:
        return f"RemoteFunction({self._function_name})"

    def __getstate__(self) -> dict[str, Any]:
        metadata = {name: self.__dict__[name] for name in _METADATA if name != "__annotations__"}
        return {"function": self._function, "options": self._default_options, "metadata": metadata}

    def __setstate__(self, state: dict[str, Any]) -> None:
        # The function may be an empty shell still: of a recursive one, this object is unpickled first.
        self.__init__(state["function"], state["options"])  # type: ignore[misc]
        self.__dict__.update(state["metadata"])


class _Decorator(Protocol):
    @overload
    def __call__(self, target: type[T], /) -> ActorClass[T]: ...  # pyright: ignore[reportOverlappingOverload]  # a class is callable too
    @overload
    def __call__(self, target: Callable[P, Iterator[T]], /) -> RemoteFunction[Callable[P, ObjectRefGenerator[T]]]: ...
    @overload
    def __call__(self, target: Callable[P, R], /) -> RemoteFunction[Callable[P, ObjectRef[R]]]: ...


class _DecoratorNone(Protocol):
    def __call__(self, target: Callable[P, Any], /) -> RemoteFunction[Callable[P, None]]: ...


class _DecoratorMany(Protocol):
    def __call__(self, target: Callable[P, Any], /) -> RemoteFunction[Callable[P, list[ObjectRef[Any]]]]: ...


@overload
def remote(target: type[T], /) -> ActorClass[T]: ...  # pyright: ignore[reportOverlappingOverload]
@overload
def remote(target: Callable[P, Iterator[T]], /) -> RemoteFunction[Callable[P, ObjectRefGenerator[T]]]: ...
@overload
def remote(target: Callable[P, R], /) -> RemoteFunction[Callable[P, ObjectRef[R]]]: ...
@overload
def remote(*, num_returns: Literal[0], **options: Unpack[RemoteOptions]) -> _DecoratorNone: ...  # pyright: ignore[reportOverlappingOverload]
@overload
def remote(*, num_returns: Literal[1] | None = None, **options: Unpack[RemoteOptions]) -> _Decorator: ...
@overload
def remote(*, num_returns: int, **options: Unpack[RemoteOptions]) -> _DecoratorMany: ...
def remote(*args: Any, **kwargs: Any) -> Any:
    """Make a remote function from a function, or an actor class from a class.

    Args:
        *args: The function or class, if written without options.
        **kwargs: Options. For both: `num_cpus`, `num_gpus`, `memory` (bytes), `resources`, `accelerator_type`, `name`, `runtime_env`,
            `scheduling_strategy`. For tasks: `num_returns`, `max_retries`, `retry_exceptions`, `max_calls`. For actors: `max_restarts`,
            `max_task_retries`, `max_concurrency`, `max_pending_calls`, `concurrency_groups`, `namespace`, `lifetime`, `get_if_exists`.

    Returns:
        A `RemoteFunction` or an `ActorClass`; with options only, a decorator that makes one.

    Raises:
        AssertionError: Written in another way than `@ray.remote` or `@ray.remote(option=...)`.
        ValueError: An unknown option or a bad value, or an `async def` function.
        TypeError: Neither a function nor a class, or an option of the wrong type.
        NotImplementedError: An option that is not available yet.

    Example:
        >>> @ray.remote(num_cpus=2)
        ... def work(x):
        ...     return x * x
        >>> ray.get(work.remote(4))
        16
    """
    target = decorated_target("ray.remote", args, kwargs)
    if target is None:
        return lambda decorated: _make(decorated, dict(kwargs))
    return _make(target, {})


def _make(target: Any, options: dict[str, Any]) -> Any:
    if isinstance(target, type):
        from ray.actor import ActorClass

        return ActorClass.from_class(target, options)
    if not isinstance(target, FunctionType) and type(target).__name__ not in ("cyfunction", "cython_function_or_method"):
        kind = "a builtin function" if isinstance(target, BuiltinFunctionType) else f"an object of type {type(target).__name__}"
        raise TypeError(f"@ray.remote goes on a function or a class, got {kind}: {target!r}\nhint: wrap it in a def")
    if is_coroutine(target) or is_async_generator(target):
        raise ValueError(f"the task {target.__qualname__} is an 'async def'\nhint: call asyncio.run() in a plain function, or use an actor")
    check_task_options(options)
    check_is_generator(options.get("num_returns"), is_generator(target), target.__qualname__)
    return RemoteFunction(target, options)

"""The arguments of `@ray.remote` and `@ray.method`: what may be decorated, and with which options (their checks are in `options`).

`ray.remote` itself stands beside the classes that it makes (`ray.remote_function`), because this package does not import them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Concatenate, Generic, Literal, ParamSpec, Protocol, TypedDict, TypeVar, overload

from ray._core.calls.actor_spec import METHOD_OPTIONS_ATTRIBUTE
from ray._core.calls.options import METHOD_OPTIONS, check_is_generator, check_method_options, unknown_option
from ray._core.calls.signatures import is_generator

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
    from typing import TypeAlias

    from typing_extensions import Self, Unpack

    from ray._core.generators import ObjectRefGenerator
    from ray._native import ObjectRef

P = ParamSpec("P")
D = TypeVar("D")
R = TypeVar("R")


# The options as type checkers see them


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
    """What `@ray.method` takes beside `num_returns`."""

    concurrency_group: str | None
    enable_task_events: bool | None
    max_task_retries: int | None
    retry_exceptions: bool | Sequence[type[BaseException]] | None
    tensor_transport: str | None
    _generator_backpressure_num_objects: int | None
    _num_objects_per_yield: int | None


class MethodCallOptions(MethodOptions, total=False):
    """What `.options()` of an actor method takes."""

    name: str | None
    num_returns: int | Literal["streaming", "dynamic"] | None


if TYPE_CHECKING:
    Streamed: TypeAlias = Iterator[D] | AsyncIterator[D]

    class MarkedMethod(Generic[P, D, R]):
        """A method under `@ray.method` as a type checker sees it: callable on an instance, with `.remote` through `ActorProxy`. Never made."""

        @overload
        def __get__(self, instance: None, owner: Any) -> Self: ...
        @overload
        def __get__(self, instance: object, owner: Any) -> Callable[P, D]: ...
        def __get__(self, instance: Any, owner: Any) -> Any: ...
        @overload
        def remote(self, /, *args: P.args, **kwargs: P.kwargs) -> R: ...
        @overload
        def remote(self, arg0: ObjectRef[Any], /, *args: Any, **kwargs: Any) -> R: ...
        @overload
        def remote(self, arg0: Any, arg1: ObjectRef[Any], /, *args: Any, **kwargs: Any) -> R: ...
        def remote(self, /, *args: Any, **kwargs: Any) -> Any: ...
        def options(self, **options: Unpack[MethodCallOptions]) -> MarkedMethod[P, D, R]: ...

    class _Mark(Protocol):
        @overload
        def __call__(self, method: Callable[Concatenate[Any, P], Streamed[D]], /) -> MarkedMethod[P, Streamed[D], ObjectRefGenerator[D]]: ...  # pyright: ignore[reportOverlappingOverload]
        @overload
        def __call__(self, method: Callable[Concatenate[Any, P], Awaitable[D]], /) -> MarkedMethod[P, Awaitable[D], ObjectRef[D]]: ...
        @overload
        def __call__(self, method: Callable[Concatenate[Any, P], D], /) -> MarkedMethod[P, D, ObjectRef[D]]: ...

    class _MarkStreaming(Protocol):
        def __call__(self, method: Callable[Concatenate[Any, P], Streamed[D]], /) -> MarkedMethod[P, Streamed[D], ObjectRefGenerator[D]]: ...

    class _MarkMany(Protocol):
        def __call__(self, method: Callable[Concatenate[Any, P], D], /) -> MarkedMethod[P, D, list[ObjectRef[Any]]]: ...


def decorated_target(decorator: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Tell the two ways of writing a decorator apart.

    Args:
        decorator: Name of the decorator, for the text of errors.
        args: Its positional arguments.
        kwargs: Its keyword arguments.

    Returns:
        The decorated object of `@decorator`; None for `@decorator(option=...)`.

    Raises:
        TypeError: Neither of the two, or the object is neither a function nor a class.
    """
    if not args and kwargs:
        return None
    if len(args) == 1 and not kwargs and (callable(args[0]) or isinstance(args[0], (staticmethod, classmethod))):
        return args[0]
    got = ", ".join([*(repr(a) for a in args), *(f"{k}={v!r}" for k, v in kwargs.items())])
    raise DecoratorUsageError(
        f"@{decorator} goes on a function or class, either bare or with keyword options only, got {decorator}({got})\n"
        f"hint: write @{decorator} or, for example, @{decorator}(num_returns=2)"
    )


class DecoratorUsageError(AssertionError, TypeError):
    """A decorator was written in a way that means nothing. Compat: Ray raises AssertionError here; TypeError is what it is."""


@overload
def method(function: Callable[Concatenate[Any, P], Streamed[D]], /) -> MarkedMethod[P, Streamed[D], ObjectRefGenerator[D]]: ...  # pyright: ignore[reportOverlappingOverload]
@overload
def method(function: Callable[Concatenate[Any, P], Awaitable[D]], /) -> MarkedMethod[P, Awaitable[D], ObjectRef[D]]: ...
@overload
def method(function: Callable[Concatenate[Any, P], D], /) -> MarkedMethod[P, D, ObjectRef[D]]: ...
@overload
def method(*, num_returns: Literal[1] | None = None, **options: Unpack[MethodOptions]) -> _Mark: ...
@overload
def method(*, num_returns: Literal["streaming"], **options: Unpack[MethodOptions]) -> _MarkStreaming: ...
@overload
def method(*, num_returns: int | Literal["dynamic"], **options: Unpack[MethodOptions]) -> _MarkMany: ...
def method(*args: Any, **kwargs: Any) -> Any:
    """Set options of an actor method.

    Args:
        *args: The method, if written without options.
        **kwargs: `num_returns`, `max_task_retries`, `retry_exceptions`, `concurrency_group`, `enable_task_events`, `tensor_transport`.

    Returns:
        The method itself, marked.

    Raises:
        AssertionError: An unknown option, or written in another way than `@ray.method` or `@ray.method(option=...)`.
        TypeError: An option has the wrong type.
        ValueError: An option has a bad value.

    Example:
        >>> @ray.remote
        ... class Splitter:
        ...     @ray.method(num_returns=2)
        ...     def halves(self, text):
        ...         return text[: len(text) // 2], text[len(text) // 2 :]
    """
    if not args and not kwargs:
        return lambda function: function
    target = decorated_target("ray.method", args, kwargs)
    if target is not None:
        return target
    for name in kwargs:
        if name not in METHOD_OPTIONS:
            raise DecoratorUsageError(unknown_option(name, "actor methods", METHOD_OPTIONS))
    check_method_options(kwargs)

    def mark(function: Any) -> Any:
        plain = getattr(function, "__func__", function)
        check_is_generator(kwargs.get("num_returns"), is_generator(plain), getattr(plain, "__qualname__", repr(plain)))
        setattr(function, METHOD_OPTIONS_ATTRIBUTE, kwargs)
        return function

    return mark

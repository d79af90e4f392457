"""The arguments of `@ray.remote` and `@ray.method`: what may be decorated, and with which options.

`ray.remote` itself stands beside the classes that it makes (`ray.remote_function`), because this package does not import them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar, overload

from ray._core.actor_spec import METHOD_OPTIONS_ATTRIBUTE
from ray._core.options import METHOD_OPTIONS, check_method_options, unknown_option

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ray._core.option_types import MethodOptions

F = TypeVar("F", bound=Callable[..., Any])


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
def method(function: F, /) -> F: ...
@overload
def method(**options: Unpack[MethodOptions]) -> Callable[[F], F]: ...
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
        setattr(function, METHOD_OPTIONS_ATTRIBUTE, kwargs)
        return function

    return mark

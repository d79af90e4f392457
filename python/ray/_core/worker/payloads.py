"""What is in a payload for whoever runs the call: the callable, and the rule for retries. Payloads are written in remote_function.py and actor.py."""

from __future__ import annotations

from ray._core.calls.actor_spec import BUILTIN_METHODS
from ray._core.errors import ActorExit

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    RetryRule = bool | tuple[type[BaseException], ...]


def callable_of(fields: dict[str, Any], instance: Any) -> Callable[..., Any]:
    """Find the callable of a call site.

    Args:
        fields: The payload, read.
        instance: The actor that runs the call; None for a task.

    Returns:
        The function, or the method bound to the actor.
    """
    if fields["kind"] == "function":
        function: Callable[..., Any] = fields["function"]
        return function
    name = fields["name"]
    builtin = BUILTIN_METHODS.get(name)
    if builtin is not None and not hasattr(instance, name):
        return _bind_builtin(builtin, instance)
    attribute = getattr(type(instance), name, None)
    if isinstance(attribute, property):
        return lambda: getattr(instance, name)
    method: Callable[..., Any] = getattr(instance, name)
    return method


def function_name(function: Callable[..., Any], fields: dict[str, Any]) -> str:
    """Name what a call site calls, whatever the call itself is named.

    Args:
        function: What `callable_of` gave.
        fields: The payload, read.
    """
    if fields["kind"] == "function":
        return f"{function.__module__}.{function.__qualname__}"
    owner = getattr(function, "__self__", None)
    return method_name(type(owner), fields["name"]) if owner is not None else str(fields["name"])


def method_name(cls: type, name: str) -> str:
    """Name a method with its class and module."""
    return f"{cls.__module__}.{cls.__qualname__}.{name}"


def _bind_builtin(builtin: Callable[..., Any], instance: Any) -> Callable[..., Any]:
    return lambda *args, **kwargs: builtin(instance, *args, **kwargs)


def retry_rule(fields: dict[str, Any]) -> RetryRule:
    """Give the `retry_exceptions` of a call site."""
    rule: RetryRule = fields.get("retry_exceptions") or False
    return rule


def is_retryable(rule: RetryRule, exception: BaseException) -> bool:
    """Tell whether a call site wants to be retried after an exception.

    Args:
        rule: Its `retry_exceptions`.
        exception: What the call raised.

    Returns:
        True if the rule names it.
    """
    if isinstance(rule, tuple):
        return isinstance(getattr(exception, "cause", exception), rule) or isinstance(exception, rule)
    return bool(rule) and isinstance(exception, Exception)


def exit_reason(exception: SystemExit) -> str:
    """Say why an actor ends itself.

    Args:
        exception: What it raised.

    Returns:
        A sentence part.
    """
    if isinstance(exception, ActorExit):
        return "it exited by itself: exit_actor() was called"
    return f"it exited by itself: sys.exit({exception.code!r}) was called"

"""Serializers for classes of other packages that can't do without."""

from __future__ import annotations

from typing import Any

__all__ = ["apply", "register_starlette_serializer"]


def register_starlette_serializer(serialization_context: Any) -> None:
    """Let `starlette.datastructures.State` travel: its `__getattr__` would answer for the methods that pickle looks for.

    Args:
        serialization_context: Such as `ray.util.serialization.StandaloneSerializationContext`.
    """
    try:
        from starlette.datastructures import State
    except ImportError:
        return
    serialization_context._register_cloudpickle_serializer(State, custom_serializer=_state_fields, custom_deserializer=State)


def _state_fields(state: Any) -> Any:
    return state._state


def apply(serialization_context: Any) -> None:
    """Register all of them.

    Args:
        serialization_context: Such as `ray.util.serialization.StandaloneSerializationContext`.
    """
    register_starlette_serializer(serialization_context)

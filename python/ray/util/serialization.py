"""How instances of a class travel between processes: serializers of the user's own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ray._core.serialization import add_serializer, remove_serializer

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["StandaloneSerializationContext", "deregister_serializer", "register_serializer"]


def register_serializer(cls: type, *, serializer: Callable[[Any], Any], deserializer: Callable[[Any], Any]) -> None:
    """Say how instances of a class are serialized by this process. Instances of derived classes are not concerned.

    What reads them needs no registration: the deserializer travels with the value. What sends them back, does.

    Args:
        cls: The class.
        serializer: Gets an instance, and gives something that can be serialized.
        deserializer: Gets that, and gives an instance.

    Example:
        >>> register_serializer(Connection, serializer=lambda one: one.address, deserializer=Connection)
    """
    add_serializer(cls, serializer, deserializer)


def deregister_serializer(cls: type) -> None:
    """Forget what `register_serializer` said of a class. Does nothing if there was nothing.

    Args:
        cls: The class.
    """
    remove_serializer(cls)


class StandaloneSerializationContext:
    """The serializers of this process, for code that wants them without a session. All instances mean the same ones."""

    def _register_cloudpickle_serializer(self, cls: type, custom_serializer: Callable[[Any], Any], custom_deserializer: Callable[[Any], Any]) -> None:
        add_serializer(cls, custom_serializer, custom_deserializer)

    def _unregister_cloudpickle_reducer(self, cls: type) -> None:
        remove_serializer(cls)

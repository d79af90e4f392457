"""Values to bytes: cloudpickle with out-of-band buffers, and errors that name the path to what can't be pickled.

The native half (crate ray-py, values.rs) decides what is plain, lays out the bytes and counts the references met on the way.
"""

from __future__ import annotations

import io
import pickle
import types
from collections import ChainMap

import cloudpickle

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, ClassVar

_FAILURES = (TypeError, AttributeError, pickle.PicklingError, NotImplementedError, RecursionError, ValueError)


def serialize(value: Any) -> tuple[bytes, list[pickle.PickleBuffer]]:
    """Pickle a value; large buffers stay where they are.

    Args:
        value: Anything that cloudpickle takes.

    Returns:
        The pickle, and the buffers that belong to it.

    Raises:
        TypeError: Something inside can't be pickled; the text names its path.
    """
    buffers: list[pickle.PickleBuffer] = []

    def keep(buffer: pickle.PickleBuffer) -> bool:
        """True: into the stream, for memory that is not one contiguous run."""
        try:
            buffer.raw()
        except BufferError:
            return True
        buffers.append(buffer)
        return False

    return _dump(value, keep), buffers


def dumps_payload(fields: dict[str, Any]) -> bytes:
    """Pickle the description of a call site or an actor class.

    Args:
        fields: Its parts, see the module that reads them (worker_main).

    Returns:
        Bytes for `loads_payload`.

    Raises:
        TypeError: Something inside can't be pickled; the text names its path.
    """
    return _dump(fields, None)


def loads_payload(data: bytes) -> dict[str, Any]:
    """Read what `dumps_payload` wrote.

    Args:
        data: The bytes.

    Returns:
        The parts.
    """
    fields: dict[str, Any] = pickle.loads(data)
    return fields


_NAMELESS = "<dynamic-code>"
"""What cloudpickle (since 3.1.3) writes in place of the file of a function that travels by value."""


def _reduce_code(code: types.CodeType) -> tuple[Any, ...]:
    """Keep the file's name: tracebacks, debuggers and coverage are about the user's files."""
    make, args = cloudpickle.Pickler.dispatch_table[types.CodeType](code)
    return make, tuple(code.co_filename if isinstance(arg, str) and arg == _NAMELESS else arg for arg in args)


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]  # cloudpickle has no types
    dispatch_table: ClassVar[ChainMap[Any, Any]] = ChainMap({types.CodeType: _reduce_code}, cloudpickle.Pickler.dispatch_table)


def _dump(value: Any, keep: Callable[[pickle.PickleBuffer], bool] | None) -> bytes:
    with io.BytesIO() as file:
        pickler = _Pickler(file, protocol=5, buffer_callback=keep)
        try:
            pickler.dump(value)
        except _FAILURES as error:
            from ray._core.pickle_path import explain

            raise explain(value, error) from error
        return file.getvalue()


# Serializers of the users' own: reducers of cloudpickle, where every pickler of this package looks.


class _Reducer:
    """Makes of an instance what pickle needs: the deserializer, and what the serializer gave."""

    def __init__(self, serializer: Callable[[Any], Any], deserializer: Callable[[Any], Any]) -> None:
        self.serializer = serializer
        self.deserializer = deserializer

    def __call__(self, value: Any) -> tuple[Any, tuple[Any]]:
        return self.deserializer, (self.serializer(value),)


def add_serializer(cls: type, serializer: Callable[[Any], Any], deserializer: Callable[[Any], Any]) -> None:
    """Register a pair for the instances of a class, in place of an earlier one.

    Raises:
        TypeError: `cls` is no class, or one of the others can't be called.
    """
    if not isinstance(cls, type):
        raise TypeError(f"a serializer is registered for a class, got {type(cls).__name__}: {cls!r:.100}")
    for name, given in (("serializer", serializer), ("deserializer", deserializer)):
        if not callable(given):
            raise TypeError(f"{name} must be callable, got {type(given).__name__}")
    cloudpickle.Pickler.dispatch_table[cls] = _Reducer(serializer, deserializer)


def remove_serializer(cls: type) -> None:
    """Forget the pair of a class, if there is one."""
    if isinstance(cloudpickle.Pickler.dispatch_table.get(cls), _Reducer):
        del cloudpickle.Pickler.dispatch_table[cls]

"""`ray.put`, `ray.get` and `ray.wait`: argument checks around the engine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar, overload

from ray._core import session
from ray._core.generators import ObjectRefGenerator
from ray._native import ObjectRef

if TYPE_CHECKING:
    from collections.abc import Sequence

T = TypeVar("T")


@overload
def get(object_refs: ObjectRef[T], *, timeout: float | None = None, _use_object_store: bool = False) -> T: ...
@overload
def get(object_refs: Sequence[ObjectRef[T]], *, timeout: float | None = None, _use_object_store: bool = False) -> list[T]: ...
def get(object_refs: Any, *, timeout: float | None = None, _use_object_store: bool = False) -> Any:
    """Wait for objects and give their values.

    Args:
        object_refs: A reference, or a list of them.
        timeout: Seconds to wait at most; 0 only looks, None waits for ever. Compat: so does a negative number.
        _use_object_store: Kept for compatibility; has no effect.

    Returns:
        The value, or the list of values in the same order. Arrays are read-only views of shared memory.

    Raises:
        GetTimeoutError: Not all values are there in time.
        RayTaskError: The task failed; the error is an instance of the user's exception class too.
        RayError: The value is lost, or its task or actor died.
        ValueError: `object_refs` is neither a reference nor a list.
        TypeError: The list holds something else than references.

    Example:
        >>> ref = ray.put({"a": 1})
        >>> ray.get(ref)
        {'a': 1}
    """
    core = session.core
    if core is None:
        core = session.auto_init()
    if type(object_refs) is ObjectRef:
        return core.get((object_refs,), _timeout_s(timeout))[0]
    if isinstance(object_refs, ObjectRefGenerator):  # Compat: Ray gives it back as it is
        return object_refs
    if not isinstance(object_refs, list):
        raise ValueError(f"ray.get takes an ObjectRef or a list of them, got {type(object_refs).__name__}: {object_refs!r:.100}")
    for ref in object_refs:
        if type(ref) is not ObjectRef:
            raise TypeError(f"ray.get takes ObjectRefs, got a list with {type(ref).__name__}: {ref!r:.100}")
    if not object_refs:
        return []
    return core.get(object_refs, _timeout_s(timeout))


def _timeout_s(timeout: float | None) -> float | None:
    if timeout is None:
        return None
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)):
        raise TypeError(f"timeout must be a number of seconds or None, got {type(timeout).__name__}: {timeout!r}")
    return None if timeout < 0 else float(timeout)


def put(value: T, *, _owner: Any = None, _tensor_transport: str | None = None) -> ObjectRef[T]:
    """Store a value, and give a reference to it.

    Args:
        value: Any picklable value but a reference.
        _owner: Not available yet.
        _tensor_transport: Not available yet.

    Returns:
        The reference. The value lives as long as it, or a copy of it, does.

    Raises:
        TypeError: The value is a reference, or can't be pickled (the text names the path inside it).
        ObjectStoreFullError: No room.

    Example:
        >>> ray.get(ray.put([1, 2]))
        [1, 2]
    """
    core = session.core
    if core is None:
        core = session.auto_init()
    if isinstance(value, ObjectRefGenerator):
        raise TypeError("ray.put does not take an ObjectRefGenerator: only one process reads it\nhint: put list(generator), the references that it gives")
    if type(value) is ObjectRef:
        raise TypeError("ray.put does not take an ObjectRef: the object is stored already\nhint: to store the reference itself, put it in a list")
    if _owner is not None or _tensor_transport is not None:
        raise NotImplementedError("ray.put(_owner=..., _tensor_transport=...) is not available yet")
    return core.put(value)


@overload
def wait(
    ray_waitables: list[ObjectRef[T]], *, num_returns: int = 1, timeout: float | None = None, fetch_local: bool = True
) -> tuple[list[ObjectRef[T]], list[ObjectRef[T]]]: ...
@overload
def wait(
    ray_waitables: list[ObjectRefGenerator[T]], *, num_returns: int = 1, timeout: float | None = None, fetch_local: bool = True
) -> tuple[list[ObjectRefGenerator[T]], list[ObjectRefGenerator[T]]]: ...
@overload
def wait(ray_waitables: list[Any], *, num_returns: int = 1, timeout: float | None = None, fetch_local: bool = True) -> tuple[list[Any], list[Any]]: ...
def wait(ray_waitables: list[Any], *, num_returns: int = 1, timeout: float | None = None, fetch_local: bool = True) -> tuple[list[Any], list[Any]]:
    """Wait until some of the objects are ready. An object whose task failed, or whose owner died, counts as ready.

    A generator (`ObjectRefGenerator`) is ready when its next reference can be taken without waiting, or when it has ended.

    Args:
        ray_waitables: Different references and generators.
        num_returns: How many must be ready, from 1 to their number.
        timeout: Seconds to wait at most; None waits for ever.
        fetch_local: Also wait until a ready object has been copied to this node.

    Returns:
        The ready ones, at most `num_returns`, and the others; both in the order given.

    Raises:
        TypeError: `ray_waitables` is not a list of references.
        ValueError: Duplicates, `num_returns` out of range, or a negative timeout.

    Example:
        >>> ready, pending = ray.wait([ray.put(1), ray.put(2)], num_returns=2)
        >>> len(ready), len(pending)
        (2, 0)
    """
    core = session.core
    if core is None:
        core = session.auto_init()
    if not isinstance(ray_waitables, list):
        hint = "\nhint: write ray.wait([ref])" if isinstance(ray_waitables, ObjectRef) else ""
        raise TypeError(f"ray.wait takes a list of ObjectRefs, got {type(ray_waitables).__name__}: {ray_waitables!r:.100}{hint}")
    timeout_s = _wait_timeout_s(timeout)
    if not ray_waitables:
        return [], []
    try:
        _check_num_returns(num_returns, len(ray_waitables))
        return core.wait(ray_waitables, int(num_returns), timeout_s, fetch_local)
    except (TypeError, ValueError):
        _check_elements(ray_waitables)  # looked at one by one only when it does not go through as it is
        _check_num_returns(num_returns, len(ray_waitables))
        if not any(isinstance(one, ObjectRefGenerator) for one in ray_waitables):
            raise
    return _wait_with_generators(core, ray_waitables, int(num_returns), timeout_s)


def _wait_with_generators(core: Any, waitables: list[Any], num_returns: int, timeout_s: float | None) -> tuple[list[Any], list[Any]]:
    """Wait; a generator is ready when its next reference is, or when it has ended."""
    if len({id(one) if isinstance(one, ObjectRefGenerator) else one for one in waitables}) < len(waitables):
        raise ValueError("ray.wait takes different ObjectRefs and generators, got duplicates")
    watched = [one._peek() if isinstance(one, ObjectRefGenerator) else one for one in waitables]
    different = list(dict.fromkeys(watched))
    # A generator that has ended is ready with its `completed()`, which may stand beside it: both count, and one is waited for.
    need = max(1, num_returns - (len(watched) - len(different)))
    ready = set(core.wait(different, need, timeout_s, True)[0])
    chosen = [at for at, ref in enumerate(watched) if ref in ready][:num_returns]
    return [waitables[at] for at in chosen], [one for at, one in enumerate(waitables) if at not in chosen]


def _check_elements(refs: list[Any]) -> None:
    for ref in refs:
        if type(ref) is not ObjectRef and not isinstance(ref, ObjectRefGenerator):
            raise TypeError(f"ray.wait takes ObjectRefs, got a list with {type(ref).__name__}: {ref!r:.100}")


def _wait_timeout_s(timeout: float | None) -> float | None:
    timeout_s = _timeout_s(timeout)
    if timeout is not None and timeout_s is None:
        raise ValueError(f"timeout must not be negative, got {timeout!r}")
    return timeout_s


def _check_num_returns(num_returns: Any, count: int) -> None:
    if isinstance(num_returns, bool) or not isinstance(num_returns, (int, float)) or num_returns != int(num_returns):
        raise TypeError(f"num_returns must be an int, got {type(num_returns).__name__}: {num_returns!r}")
    if num_returns <= 0:
        raise ValueError(f"num_returns must be at least 1, got {num_returns}")
    if num_returns > count:
        raise ValueError(f"num_returns is {num_returns}, but only {count} ObjectRefs are given")

"""Results as they come: `as_completed` and `map_unordered`."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from ray._native import ObjectRef
    from ray.remote_function import RemoteFunction

__all__ = ["as_completed", "map_unordered"]


def as_completed(refs: Sequence[ObjectRef[Any]], *, chunk_size: int = 10, yield_obj_refs: bool = False, **kwargs: Any) -> Iterator[Any]:
    """Give the results of several calls as they come.

    Args:
        refs: References of the results, no one twice.
        chunk_size: How many results to fetch with one `ray.get` at most; at least 1. A result that is there is given without waiting for others.
        yield_obj_refs: Give the references instead of the values.
        **kwargs: Arguments of `ray.wait` but `num_returns`.

    Yields:
        A value, or a reference, for each of `refs`.

    Raises:
        ValueError: A bad argument.
        RayTaskError: A call failed; the iteration ends with it.

    Example:
        >>> sorted(as_completed([double.remote(n) for n in range(3)]))
        [0, 2, 4]
    """
    _check(chunk_size, kwargs)
    return _as_completed(list(refs), chunk_size, yield_obj_refs, kwargs)


def _check(chunk_size: int, kwargs: dict[str, Any]) -> None:
    if chunk_size < 1:
        raise ValueError(f"`chunk_size` must be >= 1, got {chunk_size}")
    if "num_returns" in kwargs:
        raise ValueError("Use the `chunk_size` argument instead of `num_returns`.")


def _as_completed(pending: list[Any], chunk_size: int, yield_obj_refs: bool, kwargs: dict[str, Any]) -> Iterator[Any]:
    while pending:
        ready, pending = _ready(pending, kwargs)
        yield from _values(ready, chunk_size, yield_obj_refs)


def _ready(pending: list[Any], kwargs: dict[str, Any]) -> tuple[list[Any], list[Any]]:
    """Wait for one, then take all that are there."""
    import ray

    first, rest = ray.wait(pending, num_returns=1, **kwargs)
    if not first or not rest:  # Compat: with a `timeout` that is over, the caller waits again
        return first, rest
    more, rest = ray.wait(rest, num_returns=len(rest), timeout=0, fetch_local=kwargs.get("fetch_local", True))
    return first + more, rest


def _values(ready: list[Any], chunk_size: int, yield_obj_refs: bool) -> Iterator[Any]:
    import ray

    if yield_obj_refs:
        yield from ready
        return
    for start in range(0, len(ready), chunk_size):
        chunk = ready[start : start + chunk_size]
        try:
            values = ray.get(chunk)
        except ray.exceptions.RayError:
            values = None
        # What came before a failed one is given first.
        yield from (values if values is not None else (ray.get(ref) for ref in chunk))


def map_unordered(
    fn: RemoteFunction[Any],
    items: Iterable[Any],
    *,
    backpressure_size: int | None = 100,
    chunk_size: int = 10,
    yield_obj_refs: bool = False,
    **kwargs: Any,
) -> Iterator[Any]:
    """Call a remote function, or an actor's method, for each item, and give the results as they come.

    Args:
        fn: A remote function or a method of an actor, with one parameter.
        items: The items. They are taken as calls are made, so there may be any number of them.
        backpressure_size: How many calls may be unfinished before the next item is taken; None: any number.
        chunk_size: How many results to fetch with one `ray.get` at most; at least 1.
        yield_obj_refs: Give the references instead of the values.
        **kwargs: Arguments of `ray.wait` but `num_returns`.

    Yields:
        A value, or a reference, for each item.

    Raises:
        ValueError: A bad argument.
        RayTaskError: A call failed; the iteration ends with it.

    Example:
        >>> sorted(map_unordered(double, range(3)))
        [0, 2, 4]
    """
    _check(chunk_size, kwargs)
    if backpressure_size is not None and backpressure_size <= 0:
        raise ValueError(f"backpressure_size must be positive, got {backpressure_size}")
    return _map_unordered(fn, iter(items), backpressure_size, chunk_size, yield_obj_refs, kwargs)


def _map_unordered(fn: Any, items: Iterator[Any], most: int | None, chunk_size: int, yield_obj_refs: bool, kwargs: dict[str, Any]) -> Iterator[Any]:
    pending = [fn.remote(item) for item in islice(items, most)]
    while pending:
        ready, pending = _ready(pending, kwargs)
        pending += [fn.remote(item) for item in islice(items, len(ready))]
        yield from _values(ready, chunk_size, yield_obj_refs)

"""The metrics of this process: what users' code recorded, for whoever exports it.

Invariants:
1. One series per name, kind, tags and boundaries: metrics that agree in all of them share their values.
2. A sum or a count never goes down while the process lives.

Locks: one of the registry, one of each series; each is held for moments only, and never two.
"""

from __future__ import annotations

import bisect
import threading

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

Tags = tuple[str, ...]


class Distribution:
    """What a histogram has seen under one set of tags."""

    __slots__ = ("buckets", "count", "total")

    def __init__(self, ranges: int) -> None:
        self.buckets = [0] * ranges
        self.count = 0
        self.total = 0.0


class Series:
    """The values of one metric, by the values of its tags."""

    def __init__(self, kind: str, name: str, description: str, tag_keys: Tags, boundaries: tuple[float, ...]) -> None:
        self.kind = kind
        self.name = name
        self.description = description
        self.tag_keys = tag_keys
        self.boundaries = boundaries
        self._lock = threading.Lock()
        self._values: dict[Tags, Any] = {}

    def add(self, tags: Tags, value: float) -> None:
        """Add to a sum."""
        with self._lock:
            self._values[tags] = self._values.get(tags, 0.0) + value

    def set(self, tags: Tags, value: float) -> None:
        """Replace a value."""
        with self._lock:
            self._values[tags] = value

    def observe(self, tags: Tags, value: float) -> None:
        """Count a value in its range. A boundary belongs to the range that it ends."""
        with self._lock:
            seen = self._values.get(tags)
            if seen is None:
                seen = self._values[tags] = Distribution(len(self.boundaries) + 1)
            seen.buckets[bisect.bisect_left(self.boundaries, value)] += 1
            seen.count += 1
            seen.total += value

    def read(self) -> dict[Tags, Any]:
        """Give the values now: numbers, of a histogram `Distribution`s of their own."""
        with self._lock:
            return {tags: _copy(value) for tags, value in self._values.items()}


def _copy(value: Any) -> Any:
    if not isinstance(value, Distribution):
        return value
    copy = Distribution(0)
    copy.buckets, copy.count, copy.total = list(value.buckets), value.count, value.total
    return copy


class Registry:
    """All series of this process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._series: dict[tuple[str, str, Tags, tuple[float, ...]], Series] = {}

    def series(self, kind: str, name: str, description: str, tag_keys: Tags, boundaries: tuple[float, ...] = ()) -> Series:
        """Give the series of a metric, a new one if there is none.

        Args:
            kind: "counter", "gauge" or "histogram".
            name: Its name.
            description: What it measures.
            tag_keys: Names of its tags.
            boundaries: Of a histogram.
        """
        key = (name, kind, tag_keys, boundaries)
        with self._lock:
            known = self._series.get(key)
            if known is None:
                known = self._series[key] = Series(kind, name, description, tag_keys, boundaries)
            return known

    def all(self) -> list[Series]:
        """Every series, in the order of the names."""
        with self._lock:
            return [self._series[key] for key in sorted(self._series)]


registry = Registry()
"""The one of this process."""

"""Metrics that users' code keeps: counters, gauges and histograms with tags.

The values of a process are in one registry (`ray.util.metrics_registry`), where whoever exports them reads them. Several objects with one name share their values.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ray.util.metrics_registry import registry

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Counter", "Gauge", "Histogram", "Metric"]


class Metric:
    """What all metrics have in common. Use `Counter`, `Gauge` or `Histogram`.

    Args:
        name: Its name.
        description: What it measures.
        tag_keys: Names of its tags.
    """

    _kind = ""

    def __init__(self, name: str, description: str = "", tag_keys: tuple[str, ...] | None = None) -> None:
        if len(name) == 0:
            raise ValueError("Empty name is not allowed. Please provide a metric name.")
        self._name = name
        self._description = description
        self._tag_keys: tuple[str, ...] = tag_keys or ()
        self._default_tags: dict[str, str] = {}
        if not isinstance(self._tag_keys, tuple):
            raise TypeError(f"tag_keys should be a tuple type, got: {type(self._tag_keys)}")
        for key in self._tag_keys:
            if not isinstance(key, str):
                raise TypeError(f"Tag keys must be str, got {type(key)}.")
        self._register()

    def _register(self) -> None:
        if self._kind:
            self._series = registry.series(self._kind, self._name, self._description, self._tag_keys)

    def set_default_tags(self, default_tags: dict[str, str]) -> Self:
        """Set values of tags for records that don't give them.

        Args:
            default_tags: Values by tag.

        Returns:
            The metric.

        Raises:
            ValueError: A tag that is none of `tag_keys`.
            TypeError: A value is no string.
        """
        for key, value in default_tags.items():
            if key not in self._tag_keys:
                raise ValueError(f"Unrecognized tag key {key}.")
            if not isinstance(value, str):
                raise TypeError(f"Tag values must be str, got {type(value)}.")
        self._default_tags = default_tags
        return self

    @property
    def info(self) -> dict[str, Any]:
        """ "name", "description", "tag_keys" and "default_tags"."""
        return {"name": self._name, "description": self._description, "tag_keys": self._tag_keys, "default_tags": self._default_tags}

    def _tags(self, tags: dict[str, str] | None) -> tuple[str, ...]:
        """The values of all tags, in the order of `tag_keys`. Compat: others are left out.

        Raises:
            ValueError: One has no value.
            TypeError: A value is no string.
        """
        if tags is not None:
            for value in tags.values():
                if not isinstance(value, str):
                    raise TypeError(f"Tag values must be str, got {type(value)}.")
        found = {**self._default_tags, **(tags or {})}
        missing = [key for key in self._tag_keys if key not in found]
        if missing:
            raise ValueError(f"Missing value for tag key(s): {','.join(missing)}.")
        return tuple(found[key] for key in self._tag_keys)

    def __reduce__(self) -> Any:
        return _again, (type(self), self._arguments(), self._default_tags)

    def _arguments(self) -> tuple[Any, ...]:
        return (self._name, self._description, self._tag_keys)


def _again(cls: type[Metric], arguments: tuple[Any, ...], default_tags: dict[str, str]) -> Metric:
    return cls(*arguments).set_default_tags(default_tags)


def _check_number(value: Any) -> None:
    if not isinstance(value, (int, float)):
        raise TypeError(f"value must be int or float, got {type(value)}.")


class Counter(Metric):
    """A sum that only grows.

    Args:
        name: Its name.
        description: What it counts.
        tag_keys: Names of its tags.

    Example:
        >>> requests = Counter("requests", tag_keys=("route",))
        >>> requests.inc(1, {"route": "/"})
    """

    _kind = "counter"

    def inc(self, value: float = 1.0, tags: dict[str, str] | None = None) -> None:
        """Add to it.

        Args:
            value: How much, above 0.
            tags: Values of tags.

        Raises:
            ValueError: `value` is not above 0, or a tag is missing.
            TypeError: `value` is no number, or a tag's value no string.
        """
        _check_number(value)
        if value <= 0:
            raise ValueError(f"value must be >0, got {value}")
        self._series.add(self._tags(tags), float(value))


class Gauge(Metric):
    """A value that goes up and down.

    Args:
        name: Its name.
        description: What it shows.
        tag_keys: Names of its tags.
    """

    _kind = "gauge"

    def set(self, value: float | None, tags: dict[str, str] | None = None) -> None:
        """Set it.

        Args:
            value: The value; None changes nothing.
            tags: Values of tags.

        Raises:
            ValueError: A tag is missing.
            TypeError: `value` is no number, or a tag's value no string.
        """
        if value is None:
            return
        _check_number(value)
        self._series.set(self._tags(tags), float(value))


class Histogram(Metric):
    """How often values fell into which range.

    Args:
        name: Its name.
        description: What it measures.
        boundaries: Upper ends of the ranges, each above 0; a last range has no end.
        tag_keys: Names of its tags.

    Raises:
        ValueError: No boundaries, or one that is not above 0.
    """

    _kind = "histogram"

    def __init__(self, name: str, description: str = "", boundaries: list[float] | None = None, tag_keys: tuple[str, ...] | None = None) -> None:
        if not boundaries:
            raise ValueError(
                "boundaries argument should be provided when using the Histogram class. e.g., Histogram(name='my_histogram', boundaries=[1, 2, 5])"
            )
        for boundary in boundaries:
            if boundary <= 0:
                raise ValueError(f"Invalid `boundaries` argument {boundaries}: use positive numbers only")
        self.boundaries = boundaries
        super().__init__(name, description, tag_keys)

    def _register(self) -> None:
        self._series = registry.series(self._kind, self._name, self._description, self._tag_keys, tuple(float(one) for one in self.boundaries))

    def observe(self, value: float, tags: dict[str, str] | None = None) -> None:
        """Count a value.

        Args:
            value: The value.
            tags: Values of tags.

        Raises:
            ValueError: A tag is missing.
            TypeError: `value` is no number, or a tag's value no string.
        """
        _check_number(value)
        self._series.observe(self._tags(tags), float(value))

    @property
    def info(self) -> dict[str, Any]:
        """The same as of other metrics, and "boundaries"."""
        return {**super().info, "boundaries": self.boundaries}

    def _arguments(self) -> tuple[Any, ...]:
        return (self._name, self._description, self.boundaries, self._tag_keys)

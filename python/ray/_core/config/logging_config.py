"""How the driver and all workers of a job log: `ray.LoggingConfig`.

It is applied to the root logger and to the one named "ray", and every record says where it was made: job, worker, node, and in calls the task and the actor.
"""

from __future__ import annotations

import json
import logging
import sys
from dataclasses import dataclass, field
from typing import Any

ENCODINGS = ("TEXT", "JSON")
TEXT_FORMAT = "%(asctime)s\t%(levelname)s %(filename)s:%(lineno)s -- %(message)s"

STANDARD_ATTRIBUTES = frozenset(
    ["args", "created", "exc_info", "exc_text", "filename", "funcName", "levelname", "levelno", "lineno", "module", "msecs", "msg", "name", "pathname"]
    + ["asctime", "message", "process", "processName", "relativeCreated", "stack_info", "taskName", "thread", "threadName"]
)
"""Attributes of every record of `logging`. Source: the documentation of Python's logging module."""
_ALWAYS = ("asctime", "levelname", "message", "filename", "lineno")
_CONTEXT = ("job_id", "worker_id", "node_id", "actor_id", "actor_name", "task_id", "task_name", "task_func_name")


@dataclass
class LoggingConfig:
    """How a job logs.

    Attributes:
        encoding: "TEXT", or "JSON": one object per line.
        log_level: Level of the root logger and of "ray", as `logging` names it.
        additional_log_standard_attrs: Attributes of log records to show besides the usual ones, for example ["name", "thread"].

    Raises:
        ValueError: An unknown encoding, level or attribute.

    Example:
        >>> ray.init(logging_config=ray.LoggingConfig(encoding="JSON", log_level="INFO"))
    """

    encoding: str = "TEXT"
    log_level: str = "INFO"
    additional_log_standard_attrs: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.encoding not in ENCODINGS:
            raise ValueError(f"Invalid encoding type: {self.encoding}. Valid encoding types are: {list(ENCODINGS)}")
        for name in self.additional_log_standard_attrs:
            if name not in STANDARD_ATTRIBUTES:
                raise ValueError(f"Unknown python logging standard attribute: {name}. The valid attributes are: {sorted(STANDARD_ATTRIBUTES)}")

    def to_dict(self) -> dict[str, Any]:
        """Give the fields as built-in values."""
        attributes = list(self.additional_log_standard_attrs)
        return {"encoding": self.encoding, "log_level": self.log_level, "additional_log_standard_attrs": attributes}

    @classmethod
    def from_dict(cls, d: dict[str, Any]) -> LoggingConfig:
        """Make one from what `to_dict` gave; what is missing has its default."""
        return cls(**{name: d[name] for name in cls.__dataclass_fields__ if name in d})


def context_of_caller() -> dict[str, Any]:
    """Tell where the running code is, with the keys that log records have."""
    from ray._core import session

    core = session.core
    if core is None:
        return {}
    context = core.context()
    found = {"job_id": context["job_id"].hex(), "worker_id": context["worker_id"].hex(), "node_id": context["node_id"].hex()}
    if session.in_driver():
        return found
    if context["actor_id"]:
        found["actor_id"] = context["actor_id"].hex()
        found["actor_name"] = context["actor_name"]
    if context["in_task"]:
        from ray._core.introspection import function_name

        found["task_id"] = context["task_id"].hex()
        found["task_name"] = context["task_name"]
        found["task_func_name"] = function_name(context)
    return {key: value for key, value in found.items() if value}


class ContextFilter(logging.Filter):
    """Adds to every record where it was made."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Let every record pass."""
        for key, value in context_of_caller().items():
            if not hasattr(record, key):
                setattr(record, key, value)
        return True


def _extras(record: logging.LogRecord) -> dict[str, Any]:
    """What the program gave with `extra=`."""
    return {key: value for key, value in record.__dict__.items() if key not in STANDARD_ATTRIBUTES and key not in _CONTEXT}


class TextFormatter(logging.Formatter):
    """Lines for people, with where the record was made behind the message."""

    def __init__(self, attributes: list[str]) -> None:
        super().__init__(TEXT_FORMAT)
        self._attributes = attributes

    def format(self, record: logging.LogRecord) -> str:
        """Write one record."""
        line = super().format(record)
        parts = {name: getattr(record, name) for name in self._attributes if hasattr(record, name)}
        parts.update({name: getattr(record, name) for name in _CONTEXT if hasattr(record, name)})
        parts.update(_extras(record))
        shown = " ".join(f"{name}={value}" for name, value in parts.items())
        return f"{line} {shown}" if shown else line


class JsonFormatter(logging.Formatter):
    """One JSON object per record."""

    def __init__(self, attributes: list[str]) -> None:
        super().__init__()
        self._attributes = attributes

    def format(self, record: logging.LogRecord) -> str:
        """Write one record."""
        record.message, record.asctime = record.getMessage(), self.formatTime(record)
        fields = {name: getattr(record, name) for name in (*_ALWAYS, *self._attributes) if hasattr(record, name)}
        fields.update({name: getattr(record, name) for name in _CONTEXT if hasattr(record, name)})
        fields.update(_extras(record))
        if record.exc_info:
            fields["exc_text"] = record.exc_text = record.exc_text or self.formatException(record.exc_info)
        if record.stack_info:
            fields["stack_info"] = self.formatStack(record.stack_info)
        fields["timestamp_ns"] = int(record.created * 1e9)
        return json.dumps(fields, default=str)


class _Handler(logging.StreamHandler):  # type: ignore[type-arg]  # generic since Python 3.11 only
    """Writes to whatever `sys.stderr` is at that moment."""

    def __init__(self, before: tuple[int, int, list[logging.Handler], bool]) -> None:
        super().__init__()
        self.before = before
        """Levels of the root logger and of "ray", handlers of "ray" and whether it propagated."""

    @property
    def stream(self) -> Any:
        return sys.stderr

    @stream.setter
    def stream(self, value: Any) -> None:
        """Ignored: StreamHandler sets it once when made."""


def apply(config: LoggingConfig) -> None:
    """Let this process log as the job does. Handlers of the program itself stay.

    Args:
        config: How.

    Raises:
        ValueError: The level is unknown.
    """
    forget()
    formatter: logging.Formatter = (JsonFormatter if config.encoding == "JSON" else TextFormatter)(config.additional_log_standard_attrs)
    root, own = logging.getLogger(), logging.getLogger("ray")
    handler = _Handler((root.level, own.level, list(own.handlers), own.propagate))
    handler.setFormatter(formatter)
    handler.addFilter(ContextFilter())
    root.addHandler(handler)
    root.setLevel(config.log_level)
    own.handlers.clear()
    own.setLevel(config.log_level)
    own.propagate = True


def forget() -> None:
    """Put everything back as it was before `apply`: the session has ended, and the context with it."""
    root, own = logging.getLogger(), logging.getLogger("ray")
    for handler in [one for one in root.handlers if isinstance(one, _Handler)]:
        root.removeHandler(handler)
        level, own_level, own.handlers[:], own.propagate = handler.before
        root.setLevel(level)
        own.setLevel(own_level)

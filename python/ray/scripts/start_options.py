"""Options of `ray start`: those that have no effect here, and the reading of those that are more than a word or a number."""

from __future__ import annotations

import json

import click
from click.core import ParameterSource

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

ONE_PORT = "a node needs no port but its own"
NO_DASHBOARD = "there is no dashboard yet"
NO_REDIS = "there is no Redis"
NOT_YET = "not available yet"
ALWAYS_SO = "it is always so"
NOTHING_SENT = ""
"""A reason that is not worth a word: what is asked for holds anyway."""

IDLE: dict[str, tuple[Any, Any, str, bool]] = {
    # option: (type, None for a flag; default; why it has no effect; whether Ray hides it)
    "--redis-username": (str, "", NO_REDIS, True),
    "--redis-password": (str, "", NO_REDIS, True),
    "--redis-shard-ports": (str, None, NO_REDIS, True),
    "--object-manager-port": (int, None, ONE_PORT, False),
    "--min-worker-port": (int, 10002, ONE_PORT, False),
    "--max-worker-port": (int, 19999, ONE_PORT, False),
    "--worker-port-list": (str, None, ONE_PORT, False),
    "--runtime-env-agent-port": (int, None, ONE_PORT, False),
    "--dashboard-agent-listen-port": (int, 52365, ONE_PORT, False),
    "--dashboard-agent-grpc-port": (int, None, ONE_PORT, False),
    "--include-dashboard": (bool, None, NO_DASHBOARD, False),
    "--dashboard-host": (str, "127.0.0.1", NO_DASHBOARD, False),
    "--dashboard-port": (int, 8265, NO_DASHBOARD, False),
    "--proxy-server-url": (str, None, NO_DASHBOARD, False),
    "--ray-client-server-port": (int, None, NOT_YET, False),
    "--autoscaling-config": (str, None, NOT_YET, False),
    "--metrics-export-port": (int, None, NOT_YET, False),
    "--tracing-startup-hook": (str, None, NOT_YET, True),
    "--ray-debugger-external": (None, False, NOT_YET, False),
    "--enable-resource-isolation": (None, False, NOT_YET, False),
    "--system-reserved-cpu": (float, None, NOT_YET, False),
    "--system-reserved-memory": (int, None, NOT_YET, False),
    "--cgroup-path": (str, None, NOT_YET, False),
    "--plasma-directory": (str, None, "objects live in memory that no folder shows", False),
    "--no-redirect-output": (None, False, "what workers print goes to their driver, and what the node says to its log", False),
    "--include-log-monitor": (bool, None, "what workers print goes to their driver without another process", False),
    "--enable-object-reconstruction": (None, False, ALWAYS_SO, True),
    "--no-monitor": (None, False, ALWAYS_SO, True),
    "--disable-usage-stats": (None, False, NOTHING_SENT, False),
}
"""Options that are accepted and change nothing."""


def idle_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options that change nothing."""
    for name, (kind, default, why, is_hidden) in reversed(IDLE.items()):
        help = f"Without effect: {why}." if why else "Nothing is ever sent anywhere."
        how: dict[str, Any] = {"is_flag": True} if kind is None else {"type": kind}
        command = click.option(name, default=default, hidden=is_hidden, help=help, **how)(command)
    return command


def notes_on_idle(context: click.Context) -> list[str]:
    """Say which of the options that were given change nothing.

    Args:
        context: Of the command.

    Returns:
        A line for each reason.
    """
    given: dict[str, list[str]] = {}
    for name, (_, _, why, _) in IDLE.items():
        if why and context.get_parameter_source(name[2:].replace("-", "_")) is ParameterSource.COMMANDLINE:
            given.setdefault(why, []).append(name)
    return [f"note: without effect, {why}: {', '.join(names)}" for why, names in given.items()]


def json_object(option: str, text: str) -> dict[str, Any]:
    """Read an option that is a JSON object.

    Raises:
        ValueError: It is none.
    """
    try:
        found = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{option} is no JSON: {error}\nhint: for example {option}='{{\"name\": 1}}', in single quotes") from None
    if not isinstance(found, dict):
        raise ValueError(f"{option} must be a JSON object such as '{{\"name\": 1}}', got {text!r}")
    return found


def read_labels(text: str, path: str) -> dict[str, str]:
    """Read the labels of a node.

    Args:
        text: "key=value,key2=value2".
        path: A file with more of them, "" for none. What `text` says goes before.

    Returns:
        Value by key.

    Raises:
        ValueError: Something in them is no label.
    """
    labels = _labels_of_file(path) if path else {}
    for item in filter(None, (part.strip() for part in text.split(","))):
        key, equals, value = item.partition("=")
        if not equals:
            raise ValueError(f'--labels must be "key=value,key2=value2", got {item!r}')
        labels[key.strip()] = value.strip()
    for key, value in labels.items():
        _check_label(key, value)
    return labels


def _check_label(key: str, value: str) -> None:
    from ray._core.calls.strategies import check_label_value

    if not key:
        raise ValueError(f"a label needs a name, got only the value {value!r}")
    check_label_value(f"the label {key}", value)


def _labels_of_file(path: str) -> dict[str, str]:
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"--labels-file: {path} can't be read: {error}") from None
    if text.lstrip().startswith("{"):
        found = json_object("--labels-file", text)
        if not all(isinstance(value, str) for value in found.values()):
            raise ValueError(f"--labels-file: the values in {path} must be strings")
        return found
    labels = {}
    for number, line in enumerate(text.splitlines(), 1):
        bare = line.split(" #")[0].strip()
        if not bare or bare.startswith("#") or bare == "---":
            continue
        key, colon, value = bare.partition(":")
        if not colon or line[0].isspace() or (value and not value[0].isspace()):
            raise ValueError(f'--labels-file: line {number} of {path} is no "key: value": {bare!r}')
        labels[_unquoted(key)] = _unquoted(value)
    return labels


def _unquoted(text: str) -> str:
    text = text.strip()
    return text[1:-1] if len(text) >= 2 and text[0] == text[-1] and text[0] in "\"'" else text

"""The `runtime_env` of jobs, tasks and actors: checking, merging, and the canonical text that the engine compares.

Only `env_vars` is known so far; any other field is refused rather than ignored.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

KNOWN_FIELDS = ("env_vars",)


def check_runtime_env(runtime_env: Any) -> None:
    """Check a `runtime_env` that a user wrote.

    Args:
        runtime_env: A dict, or None.

    Raises:
        TypeError: It, or a value in it, has the wrong type.
        NotImplementedError: It has a field that is not built yet.
    """
    if runtime_env is None:
        return
    if not isinstance(runtime_env, dict):
        raise TypeError(f"runtime_env must be a dict or None, got {type(runtime_env).__name__}: {runtime_env!r}")
    for field in runtime_env:
        if field not in KNOWN_FIELDS and runtime_env[field] is not None:
            raise NotImplementedError(f"runtime_env[{field!r}] is not available yet\nhint: known so far: {', '.join(KNOWN_FIELDS)}")
    env_vars = runtime_env.get("env_vars")
    if env_vars is None:
        return
    if not isinstance(env_vars, dict):
        raise TypeError(f"runtime_env['env_vars'] must be a dict of str to str, got {type(env_vars).__name__}")
    for key, value in env_vars.items():
        for part in (key, value):
            if not isinstance(part, str):
                raise TypeError(f"runtime_env['env_vars'] must be a dict of str to str, got {type(part).__name__}: {key!r}: {value!r}")


def canonical_env(runtime_env: Mapping[str, Any] | None, parent: str = "") -> str:
    """Merge an environment into that of the caller, and write it so that equal ones are equal texts.

    Args:
        runtime_env: A checked environment, or None.
        parent: Canonical text of the caller's environment, "" for none.

    Returns:
        Canonical JSON; "" if there is nothing in it.
    """
    own = {k: v for k, v in (runtime_env or {}).items() if v}
    if not own:
        return parent
    import json

    merged: dict[str, Any] = json.loads(parent) if parent else {}
    env_vars = {**merged.get("env_vars", {}), **own.get("env_vars", {})}
    merged.update(own)
    if env_vars:
        merged["env_vars"] = env_vars
    return json.dumps(merged, sort_keys=True, separators=(",", ":"))

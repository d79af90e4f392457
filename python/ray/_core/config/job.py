"""What one program's `ray.init` says of its whole job: the arguments, `JobConfig` and the environment put together, and what of it the engine and the workers get."""

from __future__ import annotations

import json
import os

from ray._core.config import env, json_of
from ray._core.config.job_config import JobConfig
from ray._core.environment import canonical_env, check_runtime_env

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from ray._core.config.logging_config import LoggingConfig


def check(arguments: Mapping[str, Any]) -> None:
    """Check the arguments of `ray.init` that are about the job.

    Raises:
        TypeError: One has the wrong type.
        ValueError: RAY_JOB_CONFIG_JSON_ENV_VAR or a runtime environment has a bad value.
        NotImplementedError: A runtime environment asks for what is not built yet.
    """
    given = arguments["job_config"]
    if given is not None and not isinstance(given, JobConfig):
        raise TypeError(f"job_config must be a ray.job_config.JobConfig or None, got {type(given).__name__}: {given!r}")
    if arguments["logging_config"] is not None:
        from ray._core.config.logging_config import LoggingConfig

        if not isinstance(arguments["logging_config"], LoggingConfig):
            raise TypeError(f"logging_config must be a ray.LoggingConfig or None, got {type(arguments['logging_config']).__name__}")
    check_runtime_env(settled(arguments).runtime_env)


def settled(arguments: Mapping[str, Any]) -> JobConfig:
    """Put together what holds for the job. An argument of its own goes before the same field of `job_config`.

    Args:
        arguments: Named arguments of `ray.init`.

    Returns:
        A config that nobody else changes.

    Raises:
        ValueError: RAY_JOB_CONFIG_JSON_ENV_VAR holds no JSON object.
    """
    given = arguments["job_config"]
    job = JobConfig.from_json(json_of("RAY_JOB_CONFIG_JSON_ENV_VAR"))
    if given is not None:
        job.__dict__.update(given.__dict__, metadata={**job.metadata, **given.metadata}, runtime_env=given.runtime_env or job.runtime_env)
    if arguments["runtime_env"]:
        job.runtime_env = dict(arguments["runtime_env"])
    job.ray_namespace = arguments["namespace"] or job.ray_namespace or env("RAY_NAMESPACE") or None
    if arguments["logging_config"] is not None:
        job.py_logging_config = arguments["logging_config"]
    elif env("RAY_LOGGING_CONFIG_ENCODING"):
        job.ensure_logging_config({"encoding": env("RAY_LOGGING_CONFIG_ENCODING")})
    return job


def engine_config(job: JobConfig, import_path: list[str], log_to_driver: bool) -> dict[str, Any]:
    """Put together what the engine needs to know of a program.

    Args:
        job: What holds for it.
        import_path: Where the driver looks for modules.
        log_to_driver: Whether the driver prints what workers print.

    Returns:
        The part of the argument of `Core.start` that `Core.connect` takes too, without "settings".
    """
    from uuid import uuid4

    folders = [os.path.abspath(folder) for folder in job.code_search_path]
    return {
        "sys_path": [*folders, *(job._py_driver_sys_path or import_path)],
        "job_env": canonical_env(job.runtime_env),
        "namespace": job.ray_namespace or str(uuid4()),
        "log_to_driver": log_to_driver,
    }


def settings(job: JobConfig, session_dir: str) -> dict[str, str]:
    """Give the texts that the engine and the workers read of a job.

    Args:
        job: What holds for it.
        session_dir: The session's folder.
    """
    found = {"session_dir": session_dir}
    if job.default_actor_lifetime != "non_detached":
        found["default_actor_lifetime"] = job.default_actor_lifetime
    if job.py_logging_config is not None:
        found["logging_config"] = json.dumps(job.py_logging_config.to_dict())
    if job.metadata:
        found["job_metadata"] = json.dumps(job.metadata)
    return found


def apply_logging(config: LoggingConfig | None) -> None:
    """Let this process log as its job does.

    Args:
        config: How; None: as Python does.
    """
    if config is not None:
        from ray._core.config.logging_config import apply

        apply(config)


def logging_of(settings: Mapping[str, str]) -> LoggingConfig | None:
    """Read how a job logs.

    Args:
        settings: Of the job, as `settings` gave them.
    """
    text = settings.get("logging_config")
    if text is None:
        return None
    from ray._core.config.logging_config import LoggingConfig

    return LoggingConfig.from_dict(json.loads(text))

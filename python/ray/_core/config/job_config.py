"""`JobConfig`: what holds for everything that one program starts."""

from __future__ import annotations

from ray._core.environment import check_runtime_env

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ray._core.config.logging_config import LoggingConfig

__all__ = ["JobConfig"]

LIFETIMES = ("detached", "non_detached")


class JobConfig:
    """What holds for everything that one program starts; for `ray.init(job_config=...)`.

    Args:
        jvm_options: Options of Java workers, of which there are none.
        code_search_path: Folders where workers look for modules, before those of the driver.
        runtime_env: Environment of all tasks and actors; as the argument of `ray.init`.
        _client_job: Whether it is a job of the remote client.
        metadata: Texts about the job, by name.
        ray_namespace: Namespace for named actors; as the argument of `ray.init`.
        default_actor_lifetime: "detached" or "non_detached", for actors that say nothing of theirs.
        _disable_job_level_lineage_reconstruction: Accepted; each task's `max_retries` decides.
        _py_driver_sys_path: Folders where workers look for modules, instead of those of the driver.

    Raises:
        ValueError: A lifetime that there is not.
        TypeError: `runtime_env` has the wrong type.

    Example:
        >>> ray.init(job_config=ray.job_config.JobConfig(default_actor_lifetime="detached"))
    """

    def __init__(
        self,
        jvm_options: list[str] | None = None,
        code_search_path: list[str] | None = None,
        runtime_env: dict[str, Any] | None = None,
        _client_job: bool = False,
        metadata: dict[str, str] | None = None,
        ray_namespace: str | None = None,
        default_actor_lifetime: str = "non_detached",
        _disable_job_level_lineage_reconstruction: bool = False,
        _py_driver_sys_path: list[str] | None = None,
    ) -> None:
        if isinstance(code_search_path, str):
            raise TypeError(f"code_search_path must be a list of folders, got the text {code_search_path!r}")
        self.jvm_options = list(jvm_options or [])
        self.code_search_path = list(code_search_path or [])
        self._client_job = _client_job
        self.metadata = dict(metadata or {})
        self.ray_namespace = ray_namespace
        self._disable_job_level_lineage_reconstruction = _disable_job_level_lineage_reconstruction
        self._py_driver_sys_path = list(_py_driver_sys_path or [])
        self.py_logging_config: LoggingConfig | None = None
        self.runtime_env: dict[str, Any] = {}
        self.set_runtime_env(runtime_env)
        self.set_default_actor_lifetime(default_actor_lifetime)

    def set_metadata(self, key: str, value: str) -> None:
        """Add a text about the job.

        Args:
            key: Its name.
            value: The text.
        """
        self.metadata[key] = value

    def set_runtime_env(self, runtime_env: dict[str, Any] | None, validate: bool = False) -> None:
        """Set the environment of all tasks and actors, instead of the one before.

        Args:
            runtime_env: The environment; None for none.
            validate: Check it now rather than in `ray.init`.

        Raises:
            TypeError: Something in it has the wrong type.
            NotImplementedError: It has a field that is not built yet.
        """
        if validate:
            check_runtime_env(runtime_env)
        self.runtime_env = dict(runtime_env or {})

    def set_py_logging_config(self, logging_config: LoggingConfig | None = None) -> None:
        """Set how the driver and its workers log.

        Args:
            logging_config: How; None: as Python does.
        """
        self.py_logging_config = logging_config

    def ensure_logging_config(self, logging_config: LoggingConfig | dict[str, Any] | None = None) -> None:
        """Set how the driver and its workers log, if nothing was set.

        Args:
            logging_config: How, also as what `LoggingConfig.to_dict` gives.
        """
        if self.py_logging_config is not None or logging_config is None:
            return
        from ray._core.config.logging_config import LoggingConfig

        self.py_logging_config = LoggingConfig.from_dict(logging_config) if isinstance(logging_config, dict) else logging_config

    def set_ray_namespace(self, ray_namespace: str) -> None:
        """Set the namespace for named actors.

        Args:
            ray_namespace: The namespace.
        """
        self.ray_namespace = ray_namespace

    def set_default_actor_lifetime(self, default_actor_lifetime: str) -> None:
        """Set the lifetime of actors that say nothing of theirs.

        Args:
            default_actor_lifetime: "detached" or "non_detached".

        Raises:
            ValueError: Neither of them.
        """
        if default_actor_lifetime not in LIFETIMES:
            raise ValueError(f'default_actor_lifetime must be "detached" or "non_detached", got {default_actor_lifetime!r}')
        self.default_actor_lifetime = default_actor_lifetime

    @classmethod
    def from_json(cls, job_config_json: dict[str, Any]) -> JobConfig:
        """Make one from the fields that a job's description has.

        Args:
            job_config_json: "jvm_options", "code_search_path", "runtime_env", "metadata", "ray_namespace", "client_job", "default_actor_lifetime",
                "py_driver_sys_path", "py_logging_config"; each may be missing, others are ignored.
        """
        found = cls(
            jvm_options=job_config_json.get("jvm_options"),
            code_search_path=job_config_json.get("code_search_path"),
            runtime_env=job_config_json.get("runtime_env"),
            metadata=job_config_json.get("metadata"),
            ray_namespace=job_config_json.get("ray_namespace"),
            _client_job=job_config_json.get("client_job", False),
            default_actor_lifetime=job_config_json.get("default_actor_lifetime", "non_detached"),
            _py_driver_sys_path=job_config_json.get("py_driver_sys_path"),
        )
        found.ensure_logging_config(job_config_json.get("py_logging_config"))
        return found

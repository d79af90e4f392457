"""`JobConfig`: what holds for everything that one program starts."""

from ray._core.config.job_config import JobConfig

__all__ = ["JobConfig"]

"""`LoggingConfig` at Ray's import path. Re-exports only."""

from ray._core.config.logging_config import LoggingConfig

__all__ = ["LoggingConfig"]

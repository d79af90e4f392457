"""Facts about the engine that programs written for Ray ask its extension module for: `ray.Language`, `ray._config`."""

from __future__ import annotations

from ray._core.config import worker_settings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


class Language:
    """The language of a worker. There are three, as attributes of this class; workers here are Python's."""

    PYTHON: Language
    JAVA: Language
    CPP: Language
    _NAMES = ("PYTHON", "JAVA", "CPP")

    def __init__(self, lang: int) -> None:
        if lang not in range(len(self._NAMES)):
            raise ValueError(f"there is no language of number {lang!r}\nhint: ray.Language.PYTHON, .JAVA or .CPP")
        self._number = lang

    def value(self) -> int:
        """Its number."""
        return self._number

    def __repr__(self) -> str:
        return self._NAMES[self._number]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Language) and self._number == other._number

    def __hash__(self) -> int:
        return hash((Language, self._number))

    def __reduce__(self) -> tuple[Any, ...]:
        return Language, (self._number,)


Language.PYTHON, Language.JAVA, Language.CPP = map(Language, range(3))

_VALUES: dict[str, Callable[[], Any]] = {
    "enable_timeline": lambda: worker_settings({}).get("enable_timeline", "1") == "1",
    "health_check_period_ms": lambda: 500,
    "health_check_timeout_ms": lambda: 4_500,
    "record_ref_creation_sites": lambda: False,
}
"""Settings of Ray's engine that this one has, too, with the values that hold here."""


class Config:
    """What `ray._config` is: each setting a method without arguments. One that this engine does not have is an AttributeError."""

    def __getattr__(self, name: str) -> Callable[[], Any]:
        try:
            return _VALUES[name]
        except KeyError:
            raise AttributeError(f"ray._config has no {name!r}: this engine has no such setting") from None

    def __dir__(self) -> list[str]:
        return sorted(_VALUES)


config = Config()
"""The one instance."""

"""The tracked tree: which files there are, and what module a Python file is."""

import functools
import subprocess
from pathlib import Path
from typing import Any

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10; pytest brings the same parser under its old name
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[2]


@functools.cache
def files() -> tuple[Path, ...]:
    """Every file that is tracked or would be added, relative to the root."""
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=ROOT, capture_output=True, check=True).stdout.decode()
    return tuple(sorted({Path(name) for name in listed.split("\0") if name and (ROOT / name).is_file()}))


def under(folder: str, *suffixes: str) -> list[Path]:
    return [path for path in files() if path.is_relative_to(folder) and (not suffixes or path.suffix in suffixes)]


def text(path: Path) -> str:
    return (ROOT / path).read_text()


def module_of(path: Path) -> str:
    """python/ray/_core/api.py -> ray._core.api"""
    parts = path.relative_to("python").with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def modules() -> dict[str, Path]:
    """Every Python module of the package, by its dotted name."""
    return {module_of(path): path for path in under("python", ".py")}


def toml(path: str | Path) -> dict[str, Any]:
    return tomllib.loads(text(Path(path)))

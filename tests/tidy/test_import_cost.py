"""`import ray` is light: no numpy, no network code, no tool that only some programs need."""

import json
import subprocess
import sys

import pytest

LOADED = "import json, sys; before = set(sys.modules); import ray; print(json.dumps(sorted(set(sys.modules) - before)))"
HEAVY = ("numpy", "pyarrow", "pandas", "torch", "http", "ssl", "urllib.request", "email", "asyncio", "multiprocessing", "rich", "pytest")


@pytest.fixture(scope="module")
def loaded() -> set[str]:
    done = subprocess.run([sys.executable, "-c", LOADED], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout))


@pytest.mark.parametrize("name", HEAVY)
def test_import_ray_does_not_load(loaded: set[str], name: str) -> None:
    assert [module for module in loaded if module == name or module.startswith(f"{name}.")] == []

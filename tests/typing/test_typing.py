"""mypy and pyright agree with accepted.py and refused.py.

What they cannot say, and so is not asked of them: the type of a class under `@ray.remote` (mypy ignores class decorators: write
`Remote = ray.remote(Class)`); a reference passed by keyword to a parameter of another type (only positional ones are accepted).
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
FILES = ("accepted.py", "refused.py")
Errors = set[tuple[str, int]]


def mypy() -> dict[tuple[str, int], str]:
    argv = [sys.executable, "-m", "mypy", "--config-file", "pyproject.toml", "--no-error-summary", *(f"tests/typing/{name}" for name in FILES)]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "MYPYPATH": "python"}, check=False)
    assert done.returncode in (0, 1), done.stderr
    found = re.finditer(r"^tests/typing/(\w+\.py):(\d+): error: (.*)", done.stdout, re.MULTILINE)
    return {(match[1], int(match[2])): match[3] for match in found}


def pyright() -> dict[tuple[str, int], str]:
    argv = [sys.executable, "-m", "pyright", "--outputjson", *(f"tests/typing/{name}" for name in FILES)]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)
    found = [one for one in json.loads(done.stdout)["generalDiagnostics"] if one["severity"] == "error"]
    return {(Path(one["file"]).name, one["range"]["start"]["line"] + 1): one["message"] for one in found}


CHECKERS = {"mypy": mypy, "pyright": pyright}


@pytest.fixture(scope="module", params=CHECKERS)
def reported(request: pytest.FixtureRequest) -> dict[tuple[str, int], str]:
    return CHECKERS[request.param]()


def expected(name: str) -> set[int]:
    return {number for number, line in enumerate((HERE / name).read_text().splitlines(), 1) if "  # error" in line}


def test_accepted_program_has_no_error(reported: dict[tuple[str, int], str]) -> None:
    assert {place: text for place, text in reported.items() if place[0] == "accepted.py"} == {}


def test_refused_lines_are_refused_and_no_others(reported: dict[tuple[str, int], str]) -> None:
    lines = {line for name, line in reported if name == "refused.py"}
    assert sorted(expected("refused.py") - lines) == [], "accepted by mistake"
    assert {line: text for (name, line), text in reported.items() if name == "refused.py" and line not in expected("refused.py")} == {}

"""Ceilings in code lines; comments and docstrings are free. The thumb rules are half of these: see CONTRIBUTING.md."""

from collections import Counter
from pathlib import Path

import pytest
import python_code
import rust_code
import tree

FILE = 600
FUNCTION = 70
PARAMETERS = 8
NESTING = 4
ENTRIES = 20
EXAMPLE = 150

# Public facades whose theme cannot be split: at most 800.
FACADES: dict[str, int] = {}
# Folders whose names Ray's import paths fix, and where a module is an import path.
WIDE_FOLDERS = {"python/ray": 40, "python/ray/util": 40}
# Signatures fixed by compatibility, or by the one contract between Rust and Python.
FIXED_SIGNATURES = {
    "python/ray/_core/config/job_config.py:JobConfig.__init__",
    "python/ray/_core/local/calls.py:LocalTemplate.method",
    "python/ray/_core/local/calls.py:LocalTemplate.task",
    "python/ray/_core/local/core.py:LocalCore.create_actor",
    "crates/ray-py/src/core.rs:create_actor",
    "crates/ray-py/src/core.rs:create_group",
    "crates/ray-py/src/template.rs:method",
    "crates/ray-py/src/template.rs:task",
    "python/ray/_core/session.py:init",
}

PYTHON = [path for folder in ("python", "examples", "benchmarks", "tests") for path in tree.under(folder, ".py")]
RUST = tree.under("crates", ".rs")


def ids(paths: list[Path]) -> list[str]:
    return [str(path) for path in paths]


@pytest.mark.parametrize("path", PYTHON, ids=ids(PYTHON))
def test_python_file_stays_under_the_ceilings(path: Path) -> None:
    source = tree.text(path)
    assert len(python_code.code_lines(source)) <= FACADES.get(str(path), FILE)
    assert [one for one in python_code.functions(source) if too_large(path, one)] == []


@pytest.mark.parametrize("path", RUST, ids=ids(RUST))
def test_rust_file_stays_under_the_ceilings(path: Path) -> None:
    stripped = rust_code.strip(tree.text(path))
    assert rust_code.count(rust_code.without_tests(stripped)) <= FILE
    assert [one for one in rust_code.functions(stripped) if too_large(path, one)] == []


def too_large(path: Path, function: python_code.Function | rust_code.Function) -> bool:
    fixed = f"{path}:{function.name}" in FIXED_SIGNATURES
    return function.code_lines > FUNCTION or function.nesting > NESTING or (function.parameters > PARAMETERS and not fixed)


def test_examples_fit_on_three_screens() -> None:
    assert {str(path): lines for path in tree.under("examples", ".py") if (lines := len(python_code.code_lines(tree.text(path)))) > EXAMPLE} == {}


def test_folders_hold_few_entries() -> None:
    entries = {(parent, (path.relative_to(parent)).parts[0]) for path in tree.files() for parent in path.parents}
    counts = Counter(str(parent) for parent, _ in entries)
    assert {folder: count for folder, count in counts.items() if count > WIDE_FOLDERS.get(folder, ENTRIES)} == {}


def test_allow_lists_name_only_what_exists() -> None:
    named = {str(path): {one.name for one in python_code.functions(tree.text(path))} for path in PYTHON}
    named.update({str(path): {one.name for one in rust_code.functions(rust_code.strip(tree.text(path)))} for path in RUST})
    stale = {entry for entry in FIXED_SIGNATURES if entry.partition(":")[2] not in named.get(entry.partition(":")[0], set())}
    assert stale | (FACADES.keys() - named.keys()) == set()

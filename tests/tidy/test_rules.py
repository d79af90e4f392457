"""Small rules of the tree: names, broad excepts, environment variables, paths of somebody's machine."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import tree

FORBIDDEN_WORDS = {"v1", "v2", "utils", "helpers", "common", "misc", "manager"}
# Import paths that Ray fixed.
FIXED_NAMES = {"python/ray/cluster_utils.py", "python/ray/rllib/utils", "python/ray/util/state/common.py", "python/ray/util/helpers.py"}

# Process and task boundaries: here everything a user raises ends, and is logged or converted.
BROAD_EXCEPTS: dict[str, str] = {
    "benchmarks/harness.py": "a failing section is reported and the others run",
    "python/ray/_core/config/storage.py": "packages behind fsspec raise errors of their own: told, and the session ends all the same",
    "python/ray/_core/errors.py": "code of the user's exception may fail at every step; each failure becomes a plainer record",
    "python/ray/_core/futures.py": "whatever a task raised belongs to its future",
    "python/ray/_core/log_printer.py": "a stream of the user's may raise anything: shown by the thread's end, while workers must not wait for it",
    "python/ray/_core/local/actors.py": "the boundary of the user's coroutine: its error is its result",
    "python/ray/_core/local/execution.py": "the boundary of the user's call: its error is its result",
    "python/ray/_core/pickle_path.py": "the question is only whether the user's reduce works",
    "python/ray/_core/worker/template.py": "the outermost frame of a forked process: prints, then ends",
    "python/ray/_core/worker/executors.py": "the boundary of the user's call: its error is its result",
    "python/ray/_core/worker/main.py": "the user's __repr__ of an actor is not worth its life",
    "python/ray/util/multiprocessing/pool.py": "the boundary of the user's call, iterator and arguments: their error is the result",
    "python/ray/_core/worker/farewell.py": "the user's __ray_shutdown__ fails at the end of its process: shown, and the process ends",
    "python/ray/exceptions.py": "a class of the user that refuses to be derived from: converted to the plain error",
}
# The config table and what must see the environment itself.
READS_ENVIRONMENT: dict[str, str] = {
    "python/ray/_core/config/__init__.py": "the table of settings",
    "python/ray/_core/launch.py": "workers inherit the driver's environment",
    "python/ray/_core/local/variables.py": "a call takes on its runtime environment and puts the process's own back",
    "python/ray/_core/worker/main.py": "a worker takes on its runtime environment and its devices",
}

# Written in pieces, so that this file does not match itself.
MACHINE_PATHS = re.compile(r"(?<![\w.}])/" + r"(?:root|work|home/\w+)/|/opt" + r"/wheels")
REGISTRY_HOSTS = re.compile(r"\b(?:pypi\.or" + r"g|pythonhoste" + r"d|registry\.npm" + r"js|static\.crate" + r"s|index\.crate" + r"s)")
BINARY = {".png", ".jpg", ".gif", ".ico", ".npz", ".parquet"}


def parsed(folder: str) -> Iterator[tuple[Path, ast.Module]]:
    for path in tree.under(folder, ".py"):
        yield path, ast.parse(tree.text(path))


def test_modules_have_telling_names() -> None:
    found = set()
    for path in [path for path in tree.files() if path.suffix in (".py", ".rs", ".pyi")]:
        if not any(str(path).startswith(fixed) for fixed in FIXED_NAMES):
            found |= {str(path) for part in path.with_suffix("").parts if FORBIDDEN_WORDS & set(part.split("_"))}
    assert found == set()


def test_broad_excepts_are_at_the_named_boundaries() -> None:
    found = set()
    for folder in ("python", "benchmarks", "examples"):
        for path, parsed_file in parsed(folder):
            handlers = [node for node in ast.walk(parsed_file) if isinstance(node, ast.ExceptHandler)]
            if any(is_broad(handler) for handler in handlers):
                found.add(str(path))
    assert found - BROAD_EXCEPTS.keys() == set()
    assert BROAD_EXCEPTS.keys() - found == set(), "no longer needed"


def is_broad(handler: ast.ExceptHandler) -> bool:
    kinds = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    return any(kind is None or ast.unparse(kind) in ("Exception", "BaseException") for kind in kinds)


def test_environment_is_read_in_the_named_modules() -> None:
    reads = re.compile(r"\bos\.(?:environ|getenv|putenv)\b|\bfrom os import .*\b(?:environ|getenv)\b")
    found = {str(path) for path, parsed_file in parsed("python") if reads.search(ast.unparse(parsed_file))}
    assert found - READS_ENVIRONMENT.keys() == set()
    assert READS_ENVIRONMENT.keys() - found == set(), "no longer needed"


def test_rust_reads_no_environment_below_ray_py() -> None:
    assert [
        str(path) for path in tree.under("crates", ".rs") if "ray-py" not in path.parts and re.search(r"\benv::(?:var|set_var|vars)", tree.text(path))
    ] == []


def test_files_name_no_machine() -> None:
    found = []
    for path in [path for path in tree.files() if path.suffix not in BINARY and path.name not in ("Cargo.lock", "LICENSE")]:
        lines = enumerate(tree.text(path).splitlines(), 1)
        found += [f"{path}:{number}: {line.strip()[:80]}" for number, line in lines if MACHINE_PATHS.search(line) or REGISTRY_HOSTS.search(line)]
    assert found == []


def test_exported_names_exist_where_they_are_exported() -> None:
    """Each `__all__` is a literal, and without wildcards or lazy loading each of its names is bound in the module."""
    found = []
    for path, parsed_file in parsed("python"):
        exported = [node.value for node in parsed_file.body if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"]
        dynamic = any(isinstance(node, ast.FunctionDef) and node.name == "__getattr__" for node in parsed_file.body)
        if exported and not dynamic:
            names = {node.value for node in ast.walk(exported[0]) if isinstance(node, ast.Constant)}
            found += [f"{path}: {name}" for name in names - bound(parsed_file)]
    assert found == []


def bound(parsed_file: ast.Module) -> set[str]:
    names = {node.name for node in ast.walk(parsed_file) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))}
    names |= {node.id for node in ast.walk(parsed_file) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    return names | {alias.asname or alias.name for node in ast.walk(parsed_file) if isinstance(node, (ast.Import, ast.ImportFrom)) for alias in node.names}

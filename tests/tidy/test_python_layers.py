"""Python modules import to their left only, and never in a circle."""

from collections.abc import Iterator

import python_code
import tree

# Each level may import its own and those above it in this list. The longest matching prefix decides.
LEVELS = [
    ["ray._native"],
    ["ray.exceptions", "ray.cloudpickle"],
    ["ray._core"],
    ["ray", "ray.util", "ray.runtime_env"],
    ["ray.air", "ray.data", "ray.serve", "ray.dag", "ray.autoscaler"],
    ["ray.train", "ray.tune"],
    ["ray.rllib", "ray.llm"],
    ["ray.dashboard", "ray.scripts", "ray.job_submission"],
    ["ray._private", "ray.experimental"],
]
LEVEL_OF = {prefix: number for number, prefixes in enumerate(LEVELS) for prefix in prefixes}
LIBRARIES = ("ray.data", "ray.train", "ray.tune", "ray.serve", "ray.rllib", "ray.llm")
SHIMS = ("ray._private", "ray.experimental")
SHIM_LINES = 40
# The template imports everything that workers need before it forks them.
PRELOADS = {("ray._core.worker.main", "ray")}
# torch, tensorflow, xgboost and pandas only in modules named after them.
HEAVY = ("torch", "tensorflow", "xgboost", "lightgbm", "pandas", "jax")


def level(module: str) -> int:
    parts = module.split(".")
    prefixes = (".".join(parts[:end]) for end in range(len(parts), 0, -1))
    return next(LEVEL_OF[prefix] for prefix in prefixes if prefix in LEVEL_OF)


def edges() -> Iterator[tuple[str, str, python_code.Import]]:
    """(importing module, imported module of ours, the import)"""
    known = {*tree.modules(), "ray._native"}
    for module, path in tree.modules().items():
        for one in python_code.imports(tree.text(path), module, path.name == "__init__.py"):
            target = next((name for name in one.names if name in known), None)
            # A constant like `__version__` of the package itself is no dependency on what the package loads later.
            constant = target == "ray" and one.names[0].endswith("__")
            if target is not None and target != module and not constant:
                yield module, target, one


def test_modules_import_to_their_left() -> None:
    assert [
        f"{module}:{one.line} imports {target}" for module, target, one in edges() if level(target) > level(module) and (module, target) not in PRELOADS
    ] == []


def test_libraries_use_the_public_api_only() -> None:
    private = ("ray._core", "ray._native")
    assert [f"{module}:{one.line} imports {target}" for module, target, one in edges() if module.startswith(LIBRARIES) and target.startswith(private)] == []


def test_nobody_imports_the_shims() -> None:
    assert [f"{module} imports {target}" for module, target, _ in edges() if target.startswith(SHIMS) and not module.startswith(SHIMS)] == []


def test_shims_are_short() -> None:
    lines = {module: len(python_code.code_lines(tree.text(path))) for module, path in tree.modules().items() if module.startswith(SHIMS)}
    assert {module: count for module, count in lines.items() if count > SHIM_LINES} == {}


def test_no_import_cycle_at_module_level() -> None:
    graph: dict[str, set[str]] = {module: set() for module in tree.modules()}
    for module, target, one in edges():
        if one.at_module_level and target in graph:
            graph[module].add(target)
    assert cycle(graph) is None


def cycle(graph: dict[str, set[str]]) -> list[str] | None:
    """Some circle, or None."""
    finished: set[str] = set()

    def visit(node: str, trail: list[str]) -> list[str] | None:
        if node in trail:
            return [*trail[trail.index(node) :], node]
        if node in finished:
            return None
        for target in sorted(graph[node]):
            if found := visit(target, [*trail, node]):
                return found
        finished.add(node)
        return None

    return next((found for node in sorted(graph) if (found := visit(node, []))), None)


def test_cycle_finds_a_circle_and_no_diamond() -> None:
    assert cycle({"a": {"b"}, "b": {"c"}, "c": {"a"}}) == ["a", "b", "c", "a"]
    assert cycle({"a": {"b", "c"}, "b": {"d"}, "c": {"d"}, "d": set()}) is None


def test_heavy_packages_stay_in_modules_named_after_them() -> None:
    found = []
    for module, path in tree.modules().items():
        for one in python_code.imports(tree.text(path), module, path.name == "__init__.py"):
            root = one.names[-1].split(".")[0]
            if root in HEAVY and root not in module:
                found.append(f"{module}:{one.line} imports {root}")
    assert found == []

"""python/ray/_native.pyi says what the extension module holds: no name more, no name less, the same parameters."""

import ast
import importlib
import inspect
from types import ModuleType

import pytest
import tree

STUB = ast.parse((tree.ROOT / "python/ray/_native.pyi").read_text())
# What every class or module has anyway.
INHERITED = set(dir(object)) | {"__module__", "__doc__", "__dict__", "__weakref__", "__class_getitem__", "__reduce__", "__buffer__"}
TYPING_ONLY = {"T"}
SKIPPED = ("self", "cls", "args", "kwargs")
Definition = ast.FunctionDef | ast.AsyncFunctionDef


@pytest.fixture(scope="module")
def native() -> ModuleType:
    return importlib.import_module("ray._native")


def classes() -> dict[str, ast.ClassDef]:
    return {node.name: node for node in STUB.body if isinstance(node, ast.ClassDef)}


def names(body: list[ast.stmt]) -> set[str]:
    defined = {node.name for node in body if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))}
    annotated = {ast.unparse(node.target) for node in body if isinstance(node, ast.AnnAssign)}
    return defined | annotated


def test_stub_and_module_hold_the_same_names(native: ModuleType) -> None:
    held = {name for name in dir(native) if name == "__version__" or not name.startswith("__")}
    assert held == names(STUB.body) - TYPING_ONLY


@pytest.mark.parametrize("name", sorted(classes()))
def test_stub_class_and_module_class_hold_the_same_members(native: ModuleType, name: str) -> None:
    # __hash__ and the like show in a class's own dictionary once it defines comparison; object declares them.
    held = {member for member in vars(getattr(native, name)) if member not in INHERITED}
    assert held == names(classes()[name].body) - INHERITED


def documented() -> list[tuple[str, Definition]]:
    found = [(node.name, node) for node in STUB.body if isinstance(node, ast.FunctionDef)]
    for name, node in classes().items():
        found += [(f"{name}.{child.name}", child) for child in node.body if isinstance(child, ast.FunctionDef) and not child.name.startswith("__")]
    return [(name, node) for name, node in found if not any(ast.unparse(decorator) == "property" for decorator in node.decorator_list)]


@pytest.mark.parametrize(("name", "node"), documented(), ids=[name for name, _ in documented()])
def test_stub_function_and_module_function_take_the_same_parameters(native: ModuleType, name: str, node: Definition) -> None:
    target: object = native
    for part in name.split("."):
        target = getattr(target, part)
    try:
        signature = inspect.signature(target)  # type: ignore[arg-type]
    except ValueError:
        pytest.skip("the module tells no signature")
    said = [argument.arg for argument in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
    assert [parameter for parameter in signature.parameters if parameter not in SKIPPED] == [parameter for parameter in said if parameter not in SKIPPED]

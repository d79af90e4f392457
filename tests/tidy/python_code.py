"""Measures of Python source: code lines (no comments, no docstrings), functions, nesting, imports."""

import ast
import io
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass

SILENT = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
BLOCKS = (ast.If, ast.For, ast.AsyncFor, ast.While, ast.Try, ast.With, ast.AsyncWith, ast.Match)
SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)


@dataclass(frozen=True)
class Function:
    name: str
    line: int
    code_lines: int
    parameters: int
    nesting: int


def code_lines(source: str) -> set[int]:
    """Numbers of the lines that hold code."""
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in SILENT:
            lines.update(range(token.start[0], token.end[0] + 1))
    return lines - _docstring_lines(ast.parse(source))


def _docstring_lines(tree: ast.Module) -> set[int]:
    lines: set[int] = set()
    for node in ast.walk(tree):
        for child in getattr(node, "body", []) if isinstance(getattr(node, "body", None), list) else []:
            if isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant) and isinstance(child.value.value, str):
                lines.update(range(child.lineno, (child.end_lineno or child.lineno) + 1))
    return lines


def functions(source: str) -> Iterator[Function]:
    counted = code_lines(source)
    for name, node in _named_functions(ast.parse(source), ""):
        arguments = node.args
        names = [argument.arg for argument in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
        parameters = len([name for position, name in enumerate(names) if not (position == 0 and name in ("self", "cls"))])
        end = node.end_lineno or node.lineno
        yield Function(name, node.lineno, len(counted & set(range(node.lineno, end + 1))), parameters, nesting(node.body))


def _named_functions(node: ast.AST, prefix: str) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield prefix + child.name, child
            yield from _named_functions(child, f"{prefix}{child.name}.")
        else:
            yield from _named_functions(child, f"{prefix}{child.name}." if isinstance(child, ast.ClassDef) else prefix)


def nesting(body: list[ast.stmt]) -> int:
    """Depth of blocks inside blocks; `elif` is no deeper than its `if`, a nested function starts anew."""
    return max((_depth(statement) for statement in body), default=0)


def _depth(statement: ast.AST) -> int:
    if isinstance(statement, SCOPES):
        return 0
    if isinstance(statement, ast.If) and len(statement.orelse) == 1 and isinstance(statement.orelse[0], ast.If):
        return max(1 + nesting(statement.body), _depth(statement.orelse[0]))
    inner = max((_depth(child) for child in ast.iter_child_nodes(statement)), default=0)
    return inner + isinstance(statement, BLOCKS)


@dataclass(frozen=True)
class Import:
    """`names`: the dotted targets in order of preference, `ray.a.b` before `ray.a` for `from ray.a import b`."""

    line: int
    names: tuple[str, ...]
    at_module_level: bool


def imports(source: str, module: str, is_package: bool) -> Iterator[Import]:
    """Every import but those for type checkers only."""
    yield from _imports(ast.parse(source), module if is_package else module.rpartition(".")[0], True)


def _imports(node: ast.AST, package: str, top: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            for other in child.orelse:
                yield from _imports(other, package, top)
        elif isinstance(child, ast.Import):
            for alias in child.names:
                yield Import(child.lineno, (alias.name,), top)
        elif isinstance(child, ast.ImportFrom):
            base = _base(child, package)
            for alias in child.names:
                yield Import(child.lineno, (f"{base}.{alias.name}", base), top)
        else:
            yield from _imports(child, package, top and not isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)))


def _base(node: ast.ImportFrom, package: str) -> str:
    if not node.level:
        return node.module or ""
    parts = package.split(".")
    return ".".join([*parts[: len(parts) - node.level + 1], *([node.module] if node.module else [])])

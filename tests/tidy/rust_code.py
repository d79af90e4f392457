"""Measures of Rust source, by a small lexer: code lines, functions, parameters, nesting. It follows braces, not grammar."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

# In order: comments, raw strings, strings, characters (a lifetime has no closing quote).
SKIPPED = re.compile(
    r"""(?P<line>//[^\n]*)|(?P<block>/\*)|\b(?:br|r)(?P<hashes>\#*)"(?P<raw>.*?)"(?P=hashes)|b?"(?:[^"\\]|\\.)*"|b?'(?:\\(?:u\{[^}]*\}|x..|.)|[^'\\\n])'""",
    re.DOTALL,
)
CONTROL = re.compile(r"\b(if|else|match|for|while|loop)\b")


@dataclass(frozen=True)
class Function:
    name: str
    line: int
    code_lines: int
    parameters: int
    nesting: int


def strip(source: str) -> str:
    """The source with comments blanked and literals emptied; line numbers stay."""
    out, position = [], 0
    while match := SKIPPED.search(source, position):
        out.append(source[position : match.start()])
        end = _block_end(source, match.start()) if match["block"] else match.end()
        literal = not (match["line"] or match["block"])
        out.append(('""' if literal else "") + "\n" * source.count("\n", match.start(), end))
        position = end
    return "".join(out) + source[position:]


def _block_end(source: str, start: int) -> int:
    depth = 0
    for match in re.finditer(r"/\*|\*/", source[start:]):
        depth += 1 if match[0] == "/*" else -1
        if depth == 0:
            return start + match.end()
    return len(source)


def without_tests(stripped: str) -> str:
    """Without inline test modules."""
    while match := re.search(r"#\[cfg\(test\)\]\s*(?:pub\s+)?mod\s+\w+\s*\{", stripped):
        stripped = stripped[: match.start()] + stripped[_closing(stripped, match.end() - 1) + 1 :]
    return stripped


def count(stripped: str) -> int:
    return sum(1 for line in stripped.splitlines() if line.strip())


def _closing(stripped: str, opening: int) -> int:
    """Where the bracket at `opening` closes."""
    pairs = {"{": "}", "(": ")", "<": ">"}
    opens, closes = stripped[opening], pairs[stripped[opening]]
    depth = 0
    for position in range(opening, len(stripped)):
        if stripped[position] == opens:
            depth += 1
        elif stripped[position] == closes and stripped[position - 1] not in "-=":
            depth -= 1
            if depth == 0:
                return position
    return len(stripped) - 1


def functions(stripped: str) -> Iterator[Function]:
    for match in re.finditer(r"\bfn\s+(\w+)\s*", stripped):
        position = match.end()
        if stripped[position] == "<":
            position = _closing(stripped, position) + 1
        position = stripped.index("(", position)
        end = _closing(stripped, position)
        body = re.compile(r"[{;]").search(stripped, end)
        if body is None or body[0] == ";":
            continue
        close = _closing(stripped, body.start())
        line = stripped.count("\n", 0, match.start()) + 1
        yield Function(
            match[1], line, count(stripped[match.start() : close + 1]), _parameters(stripped[position + 1 : end]), nesting(stripped[body.start() + 1 : close])
        )


def _parameters(text: str) -> int:
    """Commas at depth zero; `self` and the interpreter token of pyo3 do not count."""
    depth, parts = 0, [""]
    for before, character in zip(" " + text, text, strict=False):
        depth += (character in "([{<") - (character in ")]}" or (character == ">" and before not in "-="))
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    named = [part.strip() for part in parts if part.strip()]
    return len([part for part in named if not re.fullmatch(r"(&('\w+ )?)?(mut )?self|self:.*|\w+: Python<.*", part)])


def nesting(body: str) -> int:
    """Depth of control-flow blocks."""
    stack, deepest, since = [], 0, 0
    for position, character in enumerate(body):
        if character == "{":
            head = body[since:position].rpartition("=>")[2]
            stack.append(bool(CONTROL.search(head)))
            deepest = max(deepest, sum(stack))
        elif character == "}" and stack:
            stack.pop()
        if character in "{};":
            since = position + 1
    return deepest

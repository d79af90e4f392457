"""The measures themselves, on sources whose size is known."""

import python_code
import rust_code

PYTHON = '''"""Module."""
import os  # why


class A:
    """Class."""

    def method(self, a, *, b=1):
        """Doc.

        More.
        """
        # comment
        if a:
            for x in a:
                print(x)
        elif b:
            pass
        return """not a
docstring"""
'''

RUST = """
/* block /* nested */ */
fn generic<F: Fn(u32) -> u8>(&self, f: F, map: BTreeMap<u8, (u8, u8)>) -> u8 {
    // comment with a brace {
    let text = "{ not a block";
    let quote = '{';
    let raw = r#"also " { not"#;
    if text.is_empty() {
        match quote { 'a' => { loop { break; } } _ => {} }
    }
    0
}

#[cfg(test)]
mod tests {
    fn inner<'a>(x: &'a str) {}
}
"""


def test_python_code_lines_leave_comments_and_docstrings_out() -> None:
    assert len(python_code.code_lines(PYTHON)) == 10


def test_python_function_is_measured() -> None:
    (function,) = python_code.functions(PYTHON)
    assert (function.name, function.code_lines, function.parameters, function.nesting) == ("A.method", 8, 2, 2)


def test_python_imports_resolve_relative_names() -> None:
    source = "from . import a\nfrom ..b import c\ndef f():\n    import d.e\nif TYPE_CHECKING:\n    import g\n"
    found = [(one.names, one.at_module_level) for one in python_code.imports(source, "ray.x.y", is_package=False)]
    assert found == [(("ray.x.a", "ray.x"), True), (("ray.b.c", "ray.b"), True), (("d.e",), False)]


def test_rust_function_is_measured() -> None:
    stripped = rust_code.strip(RUST)
    generic, inner = rust_code.functions(stripped)
    assert (generic.name, generic.line, generic.code_lines, generic.parameters, generic.nesting) == ("generic", 3, 9, 2, 3)
    assert (inner.name, inner.parameters) == ("inner", 1)


def test_rust_inline_tests_are_free() -> None:
    assert rust_code.count(rust_code.without_tests(rust_code.strip(RUST))) == 9

"""The size of functions and classes, and the words in use."""

import ast
import pathlib
import re
import subprocess

import pytest

ROOT = pathlib.Path(__file__).parents[1]
PACKAGE = ROOT / "keras_l2l"

FUNCTION_LINES = 60
CLASS_LINES = 250

# Coinages where the field has a word. Written so as not to find themselves.
FORBIDDEN = re.compile(
    r"way (there|back)|o[f] late|e[a]ch for itself"
    r"|so many (steps|times|coordinates)"
)


def _lines_of_code(node, lines):
    """Lines of a definition without docstrings, comments and blank lines."""
    prose = set()
    for inner in ast.walk(node):
        if isinstance(
            inner, ast.FunctionDef | ast.ClassDef
        ) and ast.get_docstring(inner):
            text = inner.body[0]
            prose |= set(range(text.lineno, text.end_lineno + 1))
    return sum(
        number not in prose and bool(lines[number - 1].split("#")[0].strip())
        for number in range(node.lineno, node.end_lineno + 1)
    )


def _definitions():
    """Path, name, limit and length of every function and class."""
    for path in sorted(PACKAGE.rglob("*.py")):
        text = path.read_text()
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ClassDef):
                limit = CLASS_LINES
            elif isinstance(node, ast.FunctionDef):
                limit = FUNCTION_LINES
            else:
                continue
            length = _lines_of_code(node, text.splitlines())
            yield str(path.relative_to(PACKAGE)), node.name, limit, length


def test_functions_and_classes_are_short():
    too_long = {
        (path, name): length
        for path, name, limit, length in _definitions()
        if length > limit
    }
    assert not too_long


def test_lines_of_code_leave_out_prose():
    source = "def f():\n    'Doc.\\n  More.'\n\n    # Why.\n    return x\n"
    (node,) = ast.parse(source).body
    assert _lines_of_code(node, source.splitlines()) == 2


def _tracked_texts():
    """Path and text of every file under version control, but binary ones."""
    listed = subprocess.run(
        ["git", "ls-files", "-z"],
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
    )
    if listed.returncode:
        pytest.skip("This is no checkout, so nothing tells which files count.")
    for name in listed.stdout.split("\0"):
        path = ROOT / name
        if path.is_file():
            try:
                yield name, path.read_text(encoding="utf-8")
            except UnicodeDecodeError:
                continue


def test_the_field_has_a_word_for_it():
    found = {
        name: match.group()
        for name, text in _tracked_texts()
        if (match := FORBIDDEN.search(text))
    }
    assert not found

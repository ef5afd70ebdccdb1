"""The code in the documents runs as it stands there."""

import importlib
import pathlib
import pkgutil
import re

import numpy as np
import pytest
from keras import ops

import keras_l2l
from keras_l2l import rules
from tests.serialization import hub_server

ROOT = pathlib.Path(__file__).parents[1]


def _blocks(name):
    text = (ROOT / name).read_text()
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


def test_the_rule_of_contributing():
    (code,) = _blocks("CONTRIBUTING.md")
    namespace = {"__name__": "sign_descent"}
    exec(code, namespace)
    rule = namespace["SignDescent"](step=0.5)
    parameters = [ops.zeros((2,)), ops.ones((1,))]
    updates, _ = rule(
        [np.array([3.0, -2.0]), np.array([0.0])],
        parameters,
        rule.initial_state(parameters),
    )
    np.testing.assert_allclose(updates[0], [-0.5, 0.5])
    np.testing.assert_allclose(updates[1], [0.0])
    assert type(rule).from_config(rule.get_config()).step == 0.5


def _run(name):
    """Runs the blocks of a page, each of which goes on after the one before."""
    blocks = _blocks(name)
    assert blocks
    code = "\n".join(blocks)
    code = re.sub(r"steps_per_epoch=\d+", "steps_per_epoch=2", code)
    code = re.sub(r"\bepochs=\d+", "epochs=1", code)
    exec(code, {})


@pytest.mark.slow
@pytest.mark.parametrize(
    "page",
    [
        *("README.md", "docs/get_started.md", "docs/use_it.md"),
        *("docs/learn_your_own.md", "docs/command_line.md"),
    ],
)
def test_the_code_of_a_page(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # What a command of the page would have written.
    rules.RNNprop(units=2).export("runs/digits/digits")
    if "hf://" not in "".join(_blocks(page)):
        _run(page)
        return
    pytest.importorskip("huggingface_hub")
    with hub_server.serve(hub_server.Hub()) as url:
        hub_server.become_hugging_face(url, tmp_path / "hub", monkeypatch)
        _run(page)


# Pages with a few lines that belong into a program of the reader's.
FRAGMENTS = {"docs/distribution.md", "docs/general.md", "docs/index.md"}


def test_pages_with_code_are_run():
    found = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "docs").rglob("*.md")
        if _blocks(path.relative_to(ROOT))
    }
    (marks,) = test_the_code_of_a_page.pytestmark[:1]
    assert found - FRAGMENTS == set(marks.args[1]) - {"README.md"}


def test_each_package_has_a_page():
    """`docs/check_names.py` looks at single names, on the built site."""
    packages = {
        info.name
        for info in pkgutil.iter_modules(keras_l2l.__path__, "keras_l2l.")
        if hasattr(importlib.import_module(info.name), "__all__")
    }
    pages = (ROOT / "docs" / "api").glob("*.md")
    text = "".join(page.read_text() for page in pages)
    documented = set(re.findall(r"automodule:: (\S+)", text))
    assert packages <= documented

"""The code in the documents runs as it stands there."""

import pathlib
import re

import numpy as np
import pytest
from keras import ops

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


@pytest.mark.slow
def test_the_code_of_the_readme(tmp_path, monkeypatch):
    """Each block goes on where the one before stopped, at a tiny size."""
    monkeypatch.chdir(tmp_path)
    blocks = _blocks("README.md")
    assert blocks
    code = "\n".join(blocks)
    code = re.sub(r"steps_per_epoch=\d+", "steps_per_epoch=2", code)
    code = re.sub(r"\bepochs=\d+", "epochs=1", code)
    exec(code, {})

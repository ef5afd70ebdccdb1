import numpy as np
import pytest

from keras_l2l import load_rule, presets, rules
from keras_l2l.serialization import RuleFormatError, variable_budget
from keras_l2l.serialization.variable_budget import (
    MAX_VARIABLES,
    BudgetError,
    check_budget,
    stored_bytes,
    stored_variables,
)
from tests.serialization.test_manifest import edit_config

LISTED = [
    {"name": "a", "shape": [2, 3], "dtype": "float32"},
    {"name": "b", "shape": [], "dtype": "float64"},
]


def test_each_listed_variable_is_allowed_once():
    with variable_budget.variable_budget(stored_variables(LISTED)):
        check_budget("any", None, "float64")
        check_budget("any", (2, 3), np.float32)
        with pytest.raises(BudgetError, match=r"'c' of shape \(2, 3\)"):
            check_budget("c", (2, 3), "float32")
    check_budget("c", (2, 3), "float32")


def test_bytes_and_the_number_of_variables_are_bounded():
    with variable_budget.variable_budget(stored_bytes(12)):
        check_budget("any", (2,), "float32")
        with pytest.raises(BudgetError, match="the 12 bytes"):
            check_budget("any", (), "float64")
    with variable_budget.variable_budget(stored_bytes(0)):
        for _ in range(MAX_VARIABLES):
            check_budget("any", (0,), "float32")
        with pytest.raises(BudgetError, match=f"{MAX_VARIABLES} variables"):
            check_budget("any", (0,), "float32")


def test_a_copy_within_a_budget_needs_none():
    rule = rules.SGD()
    with variable_budget.variable_budget(stored_variables([])):
        rule.copy()
        with pytest.raises(Exception, match="not stored"):
            rules.SGD()


@pytest.mark.parametrize(
    ("preset", "changes"),
    [
        ("lstm-mnist", {"units": 10_000}),
        ("lstm-mnist", {"layers": 10**9}),
        ("rnnprop", {"layers": 10**9}),
        ("ntm-bfgs", {"write_heads": 10**8, "rank": 10**9}),
        ("general", {"coordinate_units": 10**9}),
    ],
)
def test_impossible_sizes(tmp_path, preset, changes):
    path = tmp_path / "rule"
    for file in presets.path(preset).rglob("*"):
        if file.is_file():
            copy = path / file.relative_to(presets.path(preset))
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(file.read_bytes())
    edit_config(path, **changes)
    with pytest.raises(RuleFormatError, match="which is not stored"):
        load_rule(path)

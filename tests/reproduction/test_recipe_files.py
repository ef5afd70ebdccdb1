"""Recipes are read from TOML files, and what is wrong in one is named."""

import dataclasses
import json

import numpy as np
import pytest

from keras_l2l.reproduction import recipe_files, runner
from keras_l2l.reproduction.recipe import Recipe, Stage

LEAST = """
description = "As little as can be."
rule = "RNNprop"
task = "Quadratic"
"""


@pytest.fixture
def write(tmp_path):
    def write(text, least=LEAST):
        path = tmp_path / "mine.toml"
        path.write_text(least + text, encoding="utf-8")
        return path

    return write


def test_what_is_left_out_has_its_default(write):
    assert recipe_files.load(write("")) == Recipe(
        name="mine",
        description="As little as can be.",
        rule="RNNprop",
        task="Quadratic",
    )


def test_everything(write):
    document = """
        rule_arguments = { units = 3, beta = 0.5 }
        task_arguments = { dimensions = 3, name = "none" }
        horizon = [20, 40]
        score_steps = [5]
        global_clipnorm = 2
        jit_compile = true
        augmentations.RandomScaling = { spread = 2.0 }
        validation_task = ["Quadratic", "digits_mlp"]
        validation_arguments = [{}, { units = 4, stddev = "none" }]

        [[stages]]
        curriculum = [20, 40]
        clipnorm = 1

        [[stages]]
    """
    recipe = recipe_files.load(str(write(document)))
    assert recipe == Recipe(
        name="mine",
        description="As little as can be.",
        rule="RNNprop",
        rule_arguments={"units": 3, "beta": 0.5},
        task="Quadratic",
        task_arguments={"dimensions": 3, "name": None},
        horizon=(20, 40),
        score_steps=(5,),
        global_clipnorm=2.0,
        jit_compile=True,
        augmentations={"RandomScaling": {"spread": 2.0}},
        validation_task=("Quadratic", "digits_mlp"),
        validation_arguments=({}, {"units": 4, "stddev": None}),
        stages=(Stage(curriculum=(20, 40), clipnorm=1.0), Stage()),
    )
    assert isinstance(recipe.global_clipnorm, float)


GROUPED = """
description = ""
task = "Quadratic"
rule = "Grouped"
"""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("horizons = 3", "`horizons` is unknown.*Did you mean 'horizon'"),
        ("name = 'x'", "`name` is unknown"),
        ("[[stages]]\n[[stages]]\nepoch = 3", r"`stages\[1\].epoch`.*'epochs'"),
        ("horizon = 'long'", "integer or an array of two int.*Rec.*'long'"),
        ("horizon = [20, 40, 60]", "an array of two integers"),
        ("horizon = 20.0", "`horizon` must be an integer"),
        ("seed = true", "`seed` must be an integer. Received: True"),
        ("seed = -1", "`seed` must be at least 0"),
        ("jit_compile = 1", "`jit_compile` must be true or false"),
        ("global_clipnorm = '1'", "must be a number. Received: '1'"),
        ("global_clipnorm = nan", "positive number. Received: .*nan"),
        ("rule_arguments = 3", "`rule_arguments` must be a table"),
        ("score_steps = []", "`score_steps` must be one or more"),
        ("score_steps = ['10']", "`score_steps` must be an array of integers"),
        ("stages = []", "`stages` must be at least one"),
        ("stages = 3", "`stages` must be an array of tables"),
        ("[[stages]]\nunroll = 0", r"`stages\[0\]`: .*`unroll` must be a pos"),
        ("[[stages]]\ncoordinate_share = 2", r"in the range \(0, 1\]"),
        ("[[stages]]\nfinal_rate = -1", "`final_rate` must be at least 0"),
        ("[[stages]]\nvalidation_freq = -1", "`validation_freq` must be at"),
        ("[[stages]]\nloss_weights = 'even'", "one of .'equal', 'root'"),
        (
            "[[stages]]\ncurriculum = [20]\nvalidation_freq = 0",
            "`curriculum` must be empty",
        ),
        (
            "[[stages]]\nestimator = 'PersistantES'",
            r"`stages\[0\].estimator`.*Did you mean 'PersistentES'",
        ),
        ("[[stages]]\nloss_transform = 'lg'", "Did you mean 'log'"),
        ("rule_arguments.unit = 3", "`rule_arguments.unit` is.*'units'"),
        ("rule_arguments.seed = 3", "`rule_arguments.seed` is unknown"),
        ("task_arguments.dimension = 3", "Did you mean 'dimensions'"),
        ("task_arguments = [{}]", "must be a table. Received: "),
        ("validation_task = 'Task'", "`validation_task` must be one of"),
        ("validation_task = 'RandomScaling'", "`validation_task` must be one"),
        ("score_task = 'mnist'", "Did you mean 'mnist_mlp'"),
        ("score_task = 'numpy'", "`score_task` must be one of"),
        (
            "validation_task = ['Quadratic']\nvalidation_arguments = {}",
            "`validation_arguments` must be an array of 1 tables",
        ),
        (
            "score_task = 'mnist_mlp'\nscore_arguments.unit = 3",
            "`score_arguments.unit` is unknown",
        ),
        ("augmentations.RandomScalin = {}", "Did you mean 'RandomScaling'"),
        (
            "augmentations.RandomScaling.task = 3",
            "`augmentations.RandomScaling.task` is unknown",
        ),
        (
            "rule_arguments.units = { class_name = 'X', config = {} }",
            "must be plain data, no serialized object",
        ),
        ("= 3", "is not TOML: .*line 5"),
        ("x = " + "[" * 10_000, "is not TOML|nested too deeply"),
    ],
)
def test_a_mistake_is_named_with_its_place(write, text, message):
    with pytest.raises(ValueError, match=message) as error:
        recipe_files.load(write(text))
    assert "mine.toml'" in str(error.value)


@pytest.mark.parametrize(
    ("least", "text", "message"),
    [
        ("", "", "Key `description` is missing"),
        ("", "description = ''\nrule = 'RNNprop'", "Key `task` is missing"),
        (
            "",
            "description = ''\ntask = 'Quadratic'\nrule = 'UpdateRule'",
            "`rule` must be one of",
        ),
        (GROUPED, "", "`rule_arguments.rules` must be a table"),
        (GROUPED, "rule_arguments.rules.a = 'SGD'", "`rule_arguments.rules.a`"),
        (
            GROUPED,
            "rule_arguments.rules.a.rule = 'SDG'",
            "`rule_arguments.rules.a.rule`.*Did you mean 'SGD'",
        ),
        (
            GROUPED,
            "rule_arguments.rules.a = { rule = 'SGD', arguments = { x = 1 } }",
            "`rule_arguments.rules.a.arguments.x` is unknown",
        ),
    ],
)
def test_what_is_missing_is_named(write, least, text, message):
    with pytest.raises(ValueError, match=message):
        recipe_files.load(write(text, least))


def test_no_text_and_no_file(tmp_path):
    path = tmp_path / "mine.toml"
    with pytest.raises(FileNotFoundError, match=r"mine\.toml"):
        recipe_files.load(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match=r"mine\.toml.*is not TOML"):
        recipe_files.load(path)


def test_a_value_that_a_rule_refuses_is_named(write):
    recipe = recipe_files.load(write("rule_arguments.units = 'many'"))
    with pytest.raises(
        ValueError, match=r"`rule_arguments`: .*`units`.*'many'"
    ):
        runner.make_rule(recipe)


@pytest.mark.parametrize("name", recipe_files.names())
def test_a_shipped_recipe_is_plain_data(name):
    recipe = recipe_files.load(name)
    assert recipe.name == name
    assert recipe.description == recipe_files.descriptions()[name]
    json.dumps(dataclasses.asdict(recipe))
    assert not any(
        np.any(np.mod(stage.horizon or recipe.horizon, stage.unroll))
        for stage in recipe.stages
    )


def test_an_unknown_recipe():
    with pytest.raises(ValueError, match="Did you mean 'lstm-digits'"):
        recipe_files.load("lstm-digit")


@pytest.mark.parametrize("name", recipe_files.names())
def test_a_shipped_recipe_is_written_and_read_back(name, tmp_path):
    recipe = recipe_files.load(name)
    file = tmp_path / f"{name}.toml"
    file.write_text(recipe_files.to_toml(recipe), encoding="utf-8")
    assert recipe_files.load(file) == recipe


def test_texts_and_none_are_written_and_read_back(tmp_path):
    recipe = Recipe(
        name="mine",
        description='A "quoted" text, µ,\nof two lines.',
        rule="RNNprop",
        task=("Quadratic", "digits_mlp"),
        task_arguments=({"dimensions": 3}, {"stddev": None}),
        horizon=(20, 40),
        augmentations={"RandomScaling": {"spread": 2.0}},
        stages=(Stage(clipnorm=1e-05), Stage(curriculum=(20, 40))),
    )
    file = tmp_path / "mine.toml"
    file.write_text(recipe_files.to_toml(recipe), encoding="utf-8")
    assert recipe_files.load(file) == recipe

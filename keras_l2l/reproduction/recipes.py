"""How the shipped rules are trained: their recipes."""

from typing import Any

from keras_l2l import checks
from keras_l2l.reproduction.recipe import Recipe, Stage

# Of the paper's rule for convolutional networks.
_CONVOLUTIONAL: dict[str, Any] = {
    "rule": "Grouped",
    "rule_arguments": {
        "rules": {
            name: {
                "rule": "CoordinatewiseLSTM",
                # With less, their meta-gradient explodes within 50 steps.
                "arguments": {"derivative_smoothing": 3e-2},
            }
            for name in ("convolutions", "others")
        },
        "ranks": {"convolutions": 4},
    },
    "stages": (
        Stage(
            horizon=100,
            optimizees=1,
            epochs=30,
            steps_per_epoch=50,
            learning_rate=2e-3,
            beta_2=0.99,
            decay_epochs=40,
            validation_freq=0,
        ),
        # Longer unrolls, and then longer episodes, make it patient.
        Stage(
            unroll=100,
            horizon=400,
            optimizees=1,
            loss_weights="linear",
            epochs=8,
            steps_per_epoch=32,
            learning_rate=7e-4,
            beta_2=0.99,
            decay_epochs=10,
            final_rate=0.1,
            validation_freq=0,
            seed=77,
        ),
        Stage(
            unroll=100,
            horizon=1000,
            optimizees=1,
            loss_weights="linear",
            epochs=5,
            steps_per_epoch=30,
            learning_rate=3e-4,
            beta_2=0.99,
            decay_epochs=5,
            final_rate=0.05,
            seed=78,
        ),
        # That steps must shrink where the gradient is mostly noise, only
        # second derivatives show.
        Stage(
            unroll=100,
            horizon=1000,
            optimizees=1,
            loss_weights="linear",
            second_derivatives=True,
            clipnorm=1.0,
            epochs=6,
            steps_per_epoch=20,
            learning_rate=5e-4,
            beta_2=0.99,
            decay_epochs=6,
            final_rate=0.05,
            validation_freq=2,
            seed=79,
        ),
    ),
    "validation_horizon": 1000,
    "validation_episodes": 2,
    "score_task": "cifar_convnet",
    "score_steps": (10, 100),
}

# Of the paper's rules for quadratics, which differ in what coordinates share.
_QUADRATIC: dict[str, Any] = {
    "task": "Quadratic",
    "stages": (
        Stage(
            optimizees=10,
            epochs=50,
            steps_per_epoch=40,
            learning_rate=3e-3,
            beta_2=0.99,
            decay_epochs=50,
            validation_freq=2,
        ),
    ),
    "validation_episodes": 50,
    "score_steps": (10, 100),
}
_RAW = {"preprocessing": "raw"}

_RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            name="lstm-quadratic",
            description=(
                "The coordinatewise LSTM of Andrychowicz et al. (2016) for "
                "raw gradients, trained on quadratics of ten dimensions."
            ),
            rule="CoordinatewiseLSTM",
            rule_arguments=_RAW,
            **_QUADRATIC,
        ),
        Recipe(
            name="lstm-gac-quadratic",
            description=(
                "As lstm-quadratic, with two global averaging cells a layer."
            ),
            rule="CoordinatewiseLSTM",
            rule_arguments={**_RAW, "averaging_cells": 2},
            **_QUADRATIC,
        ),
        Recipe(
            name="ntm-bfgs",
            description=(
                "NTM-BFGS of Andrychowicz et al. (2016), with the full "
                "memory, trained on quadratics of ten dimensions."
            ),
            rule="NTMBFGS",
            rule_arguments=_RAW,
            **_QUADRATIC,
        ),
        Recipe(
            name="lstm-mnist",
            description=(
                "The coordinatewise LSTM of Andrychowicz et al. (2016), "
                "trained on their MNIST optimizee."
            ),
            rule="CoordinatewiseLSTM",
            rule_arguments={
                "units": 20,
                "layers": 2,
                "output_scale": 0.1,
                "derivative_smoothing": 1e-3,
            },
            task="mnist_mlp",
            # Short unrolls find a rule that trains at all; left alone, they
            # make it greedy. Long ones, and then their ends, make it patient.
            # What patience brings, only derivatives through a whole episode
            # show, those of the optimizee's gradients included.
            stages=(
                Stage(
                    loss_weights="linear",
                    coordinate_share=0.25,
                    epochs=37,
                    decay_epochs=80,
                    validation_freq=0,
                ),
                Stage(
                    unroll=100,
                    loss_weights="linear",
                    coordinate_share=0.25,
                    epochs=4,
                    steps_per_epoch=100,
                    decay_epochs=4,
                    final_rate=0.02,
                    validation_freq=0,
                    seed=77,
                ),
                Stage(
                    unroll=100,
                    loss_weights="ends",
                    coordinate_share=0.25,
                    epochs=4,
                    steps_per_epoch=30,
                    learning_rate=5e-4,
                    decay_epochs=4,
                    final_rate=0.02,
                    validation_freq=0,
                    seed=77,
                ),
                Stage(
                    unroll=100,
                    loss_weights="ends",
                    coordinate_share=0.25,
                    epochs=18,
                    steps_per_epoch=20,
                    learning_rate=5e-4,
                    decay_epochs=18,
                    validation_freq=0,
                    seed=78,
                ),
                Stage(
                    unroll=200,
                    optimizees=4,
                    loss_weights="quadratic",
                    second_derivatives=True,
                    clipnorm=1.0,
                    epochs=12,
                    steps_per_epoch=5,
                    learning_rate=3e-4,
                    beta_2=0.99,
                    decay_epochs=12,
                    final_rate=0.05,
                    seed=100,
                ),
            ),
            horizon=200,
        ),
        Recipe(
            name="general",
            description=(
                "A recurrent cell for each tensor over orthogonalised "
                "momentum, trained on a mixture of small models of many kinds."
            ),
            rule="Hierarchical",
            rule_arguments={"units": 8, "coordinate_units": 4},
            task="mixture",
            task_arguments={"count": 24},
            validation_task="mixture",
            validation_arguments={"count": 8, "seed": 1},
            validation_horizon=2000,
            validation_episodes=1,
            score_task="mnist_mlp",
            score_arguments={
                "units": 64,
                "depth": 2,
                "activation": "relu",
                "stddev": None,
            },
            score_steps=(10, 100, 1000),
            jit_compile=True,
            global_clipnorm=10.0,
            horizon=(100, 1000),
            stages=(
                Stage(
                    unroll=50,
                    optimizees=1,
                    tasks_per_step=4,
                    loss_weights="root",
                    loss_transform="log",
                    estimator="PersistentES",
                    stddev=0.04,
                    epochs=32,
                    steps_per_epoch=200,
                    learning_rate=3e-3,
                    beta_2=0.99,
                    decay_epochs=40,
                    final_rate=0.1,
                    validation_freq=2,
                ),
            ),
        ),
        Recipe(
            name="rnnprop",
            description=(
                "RNNprop of Lv et al. (2017), trained with random scaling on "
                "small networks of digits and on a convex companion."
            ),
            rule="RNNprop",
            task=(*("digits_mlp",) * 4, "Quadratic"),
            task_arguments=(
                {"activation": "sigmoid", "stddev": None},
                {"activation": "relu", "stddev": None},
                {"activation": "tanh", "depth": 2, "stddev": None},
                {"activation": "elu", "depth": 2, "stddev": None},
                {"dimensions": 20},
            ),
            augmentations={"RandomScaling": {"spread": 3.0}},
            validation_task=("digits_mlp", "digits_mlp", "Quadratic"),
            validation_arguments=(
                {
                    "units": 32,
                    "depth": 2,
                    "activation": "silu",
                    "stddev": None,
                },
                {"units": 32, "activation": "relu"},
                {"dimensions": 10},
            ),
            validation_horizon=1000,
            validation_episodes=2,
            score_task="mnist_mlp",
            score_arguments={
                "depth": 2,
                "activation": "relu",
                "stddev": None,
            },
            score_steps=(10, 100, 1000),
            jit_compile=True,
            stages=(
                Stage(
                    optimizees=1,
                    loss_transform="log",
                    coordinate_share=0.25,
                    epochs=18,
                    steps_per_epoch=200,
                    beta_2=0.99,
                    decay_epochs=40,
                    final_rate=0.05,
                    validation_freq=2,
                ),
            ),
        ),
        Recipe(
            name="lstm-cifar",
            description=(
                "Two coordinatewise LSTMs of Andrychowicz et al. (2016), one "
                "for the kernels of convolutions, trained on their CIFAR-10 "
                "optimizee with images of half the size."
            ),
            task="cifar_convnet",
            task_arguments={"size": 16},
            **_CONVOLUTIONAL,
        ),
        Recipe(
            name="lstm-cifar-sub",
            description=(
                "As lstm-cifar, but trained on the images of five labels "
                "alone: the LSTM-sub of Andrychowicz et al. (2016)."
            ),
            task="cifar_convnet",
            task_arguments={"size": 16, "labels": [5, 6, 7, 8, 9]},
            **_CONVOLUTIONAL,
        ),
        Recipe(
            name="lstm-art",
            description=(
                "The coordinatewise LSTM of Andrychowicz et al. (2016), "
                "trained to paint in one style at 64×64 pixels."
            ),
            rule="CoordinatewiseLSTM",
            # The gradient of one pixel of many is small.
            rule_arguments={
                "units": 20,
                "layers": 2,
                "output_scale": 0.1,
                "p": 12.0,
                "derivative_smoothing": 1e-3,
            },
            task="neural_art",
            score_task="neural_art",
            score_arguments={"split": "test"},
            score_steps=(16, 128),
            validation_episodes=4,
            # As of lstm-mnist: short unrolls, and then whole episodes.
            stages=(
                Stage(
                    unroll=32,
                    optimizees=1,
                    loss_weights="linear",
                    coordinate_share=0.1,
                    epochs=10,
                    steps_per_epoch=20,
                    learning_rate=3e-3,
                    beta_2=0.99,
                    decay_epochs=15,
                    validation_freq=0,
                ),
                Stage(
                    unroll=128,
                    optimizees=1,
                    loss_weights="linear",
                    second_derivatives=True,
                    clipnorm=1.0,
                    epochs=12,
                    steps_per_epoch=5,
                    learning_rate=1e-3,
                    beta_2=0.99,
                    decay_epochs=12,
                    final_rate=0.05,
                    seed=100,
                ),
            ),
            horizon=128,
        ),
        Recipe(
            name="lstm-digits",
            description=(
                "The same LSTM, trained in minutes on scikit-learn's digits, "
                "which need no download."
            ),
            rule="CoordinatewiseLSTM",
            rule_arguments={"units": 20, "layers": 2, "output_scale": 0.1},
            task="digits_mlp",
        ),
    )
}


def names():
    """The names of all recipes.

    Returns:
        Tuple of strings.
    """
    return tuple(_RECIPES)


def get(name):
    """A recipe by its name.

    Args:
        name: String, one of `names()`.

    Returns:
        A `Recipe`.

    Raises:
        ValueError: If there is no such recipe.
    """
    checks.known_name(name, _RECIPES, "a recipe")
    return _RECIPES[name]

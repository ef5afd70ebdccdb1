"""Tasks: distributions of optimizees with their data."""

from keras_l2l import checks

checks.needs_tensorflow("`keras_l2l.tasks` needs")

from keras_l2l.tasks.adding_problem import adding_problem
from keras_l2l.tasks.analytic import Analytic
from keras_l2l.tasks.augmentation import (
    GradientNoise,
    RandomBatchSize,
    RandomScaling,
    Reparametrization,
)
from keras_l2l.tasks.base import Task
from keras_l2l.tasks.gradient_scale import GradientBursts, LossScaling
from keras_l2l.tasks.image_classification import (
    cifar_convnet,
    digits_mlp,
    mnist_mlp,
)
from keras_l2l.tasks.keras_task import KerasTask
from keras_l2l.tasks.mixture import mixture
from keras_l2l.tasks.neural_style import NeuralStyle, neural_art
from keras_l2l.tasks.quadratic import Quadratic
from keras_l2l.tasks.synthetic_task import SyntheticTask

__all__ = [
    "Analytic",
    "GradientBursts",
    "GradientNoise",
    "KerasTask",
    "LossScaling",
    "NeuralStyle",
    "Quadratic",
    "RandomBatchSize",
    "RandomScaling",
    "Reparametrization",
    "SyntheticTask",
    "Task",
    "adding_problem",
    "cifar_convnet",
    "digits_mlp",
    "mixture",
    "mnist_mlp",
    "neural_art",
]

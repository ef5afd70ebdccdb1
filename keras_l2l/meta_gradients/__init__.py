"""Meta-gradients: task and rule → the gradient of the meta-loss."""

from keras_l2l import checks

checks.needs_tensorflow("`keras_l2l.meta_gradients` needs")

from keras_l2l.meta_gradients.base import Estimate, MetaGradientEstimator
from keras_l2l.meta_gradients.evolution_strategies import (
    AntitheticES,
    PersistentES,
)
from keras_l2l.meta_gradients.imitation import Imitation
from keras_l2l.meta_gradients.meta_loss import MetaLoss
from keras_l2l.meta_gradients.truncated_backpropagation import (
    TruncatedBackpropagation,
)

__all__ = [
    "AntitheticES",
    "Estimate",
    "Imitation",
    "MetaGradientEstimator",
    "MetaLoss",
    "PersistentES",
    "TruncatedBackpropagation",
]

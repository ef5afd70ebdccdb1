"""The Keras shell around an update rule."""

from keras_l2l.optimizers.l2l_optimizer import L2LOptimizer
from keras_l2l.optimizers.schedules import Cooldown

__all__ = ["Cooldown", "L2LOptimizer"]

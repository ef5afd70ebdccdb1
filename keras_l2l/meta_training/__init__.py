"""The outer loop: meta-training of an update rule."""

from keras_l2l import checks

checks.needs_tensorflow("Meta-training, with `MetaTrainer`, needs")

from keras_l2l.meta_training.curriculum import Curriculum
from keras_l2l.meta_training.trainer import MetaTrainer

__all__ = ["Curriculum", "MetaTrainer"]

"""Learned optimizers for Keras."""

from keras_l2l import rules, tasks
from keras_l2l.meta_trainer import MetaTrainer

__all__ = ["MetaTrainer", "rules", "tasks"]

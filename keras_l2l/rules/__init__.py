"""Update rules."""

from keras_l2l.rules.base import CoordinatewiseRule, RuleState, UpdateRule
from keras_l2l.rules.grouped import Grouped
from keras_l2l.rules.hand_designed import (
    SGD,
    Adam,
    AdamW,
    Momentum,
    Nadam,
    RMSprop,
)
from keras_l2l.rules.hierarchical import Hierarchical
from keras_l2l.rules.lstm import CoordinatewiseLSTM
from keras_l2l.rules.memory import NTMBFGS
from keras_l2l.rules.prodigy import Prodigy
from keras_l2l.rules.rnnprop import RNNprop
from keras_l2l.rules.schedule_free import ScheduleFreeAdamW
from keras_l2l.rules.selection import paths_of

__all__ = [
    "NTMBFGS",
    "SGD",
    "Adam",
    "AdamW",
    "CoordinatewiseLSTM",
    "CoordinatewiseRule",
    "Grouped",
    "Hierarchical",
    "Momentum",
    "Nadam",
    "Prodigy",
    "RMSprop",
    "RNNprop",
    "RuleState",
    "ScheduleFreeAdamW",
    "UpdateRule",
    "paths_of",
]

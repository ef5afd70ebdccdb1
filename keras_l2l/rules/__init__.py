"""Update rules."""

from keras_l2l.rules.adam_lstm import AdamLSTM
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
from keras_l2l.rules.learned_muon import LearnedMuon
from keras_l2l.rules.loading import load_rule
from keras_l2l.rules.lstm import CoordinatewiseLSTM
from keras_l2l.rules.muon import Muon
from keras_l2l.rules.ntm_bfgs import NTMBFGS
from keras_l2l.rules.parameter_groups import paths_of
from keras_l2l.rules.prodigy import Prodigy
from keras_l2l.rules.rnnprop import RNNprop
from keras_l2l.rules.schedule_free import ScheduleFreeAdamW
from keras_l2l.rules.soap import SOAP

__all__ = [
    "NTMBFGS",
    "SGD",
    "SOAP",
    "Adam",
    "AdamLSTM",
    "AdamW",
    "CoordinatewiseLSTM",
    "CoordinatewiseRule",
    "Grouped",
    "Hierarchical",
    "LearnedMuon",
    "Momentum",
    "Muon",
    "Nadam",
    "Prodigy",
    "RMSprop",
    "RNNprop",
    "RuleState",
    "ScheduleFreeAdamW",
    "UpdateRule",
    "load_rule",
    "paths_of",
]

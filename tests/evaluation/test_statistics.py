import math

import numpy as np
import pytest

from keras_l2l.evaluation import statistics
from keras_l2l.evaluation.statistics import final_score


def test_statistics():
    assert statistics.mean_and_error([1.0, 3.0]) == statistics.MeanAndError(
        2.0, 1.0
    )
    assert math.isnan(statistics.mean_and_error([1.0]).standard_error)
    found = statistics.paired_difference([2.0, 4.0, 9.0], [1.0, 2.0, 6.0])
    assert found.mean == 2.0
    assert found.paired_standard_error == pytest.approx(1 / math.sqrt(3))
    assert found.in_paired_standard_errors == pytest.approx(2 * math.sqrt(3))
    assert found.unpaired_standard_error == pytest.approx(
        math.sqrt((13 + 7) / 3)
    )
    same = statistics.paired_difference([1.0, 2.0], [1.0, 2.0])
    assert same.in_paired_standard_errors == 0.0
    better = statistics.paired_difference([2.0, 3.0], [1.0, 2.0])
    assert better.in_paired_standard_errors == math.inf


def test_a_ratio_of_losses_that_are_zero():
    assert statistics.loss_ratio(0.0, 0.0) == 1.0
    assert statistics.loss_ratio(3.0, 2.0) == 1.5
    assert statistics.loss_ratio(0.5, 0.0) == pytest.approx(5e6)
    assert statistics.loss_ratio(math.inf, 2.0) == math.inf


def test_geometric_mean():
    assert statistics.geometric_mean([0.5, 2.0]) == pytest.approx(1.0)
    assert statistics.geometric_mean([0.5, math.inf]) == math.inf


def test_final_score_is_the_mean_of_the_last_tenth():
    losses = np.arange(101.0)
    assert final_score(losses) == np.mean(np.arange(91, 101))
    assert final_score(np.array([5.0, 3.0])) == 3.0
    for index, bad in ((4, math.nan), (100, 2e3), (100, math.inf)):
        bad_losses = losses.copy()
        bad_losses[index] = bad
        assert final_score(bad_losses) == math.inf
    losses[4] = 1e30  # it came back
    assert final_score(losses) == np.mean(np.arange(91, 101))

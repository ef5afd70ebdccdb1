"""Kept runs: what is read back, and what damaged files say."""

import json
import math

import numpy as np
import pytest

from keras_l2l.evaluation.episode_runner import Run
from keras_l2l.evaluation.run_cache import RunCache

RUN = Run(
    *(np.array([3.0, math.nan, 1 / 3]), {1: 2.5, 2: math.nan}, {2: 0.75}),
    *(0.5, 0.25),
)
PLACE = "Adam", 0.01, 7


@pytest.fixture
def cache(tmp_path):
    cache = RunCache(tmp_path)
    cache.save(*PLACE, RUN)
    return cache


def test_a_run_comes_back(cache, tmp_path):
    assert [p.name for p in tmp_path.rglob("*.*")] == ["0.01-7.json"]
    found = RunCache(tmp_path).load(*PLACE, (1, 2))
    np.testing.assert_array_equal(found.losses, [3.0, math.nan, 0.3333333])
    assert found.test_losses[1] == 2.5
    assert math.isnan(found.test_losses[2])
    assert found.test_accuracies == {2: 0.75}
    assert (found.seconds, found.cpu_seconds) == (0.5, 0.25)


@pytest.mark.parametrize("recorded", [(1,), (3,), (0, 2)])
def test_a_run_of_another_length_or_without_tests_is_none(cache, recorded):
    assert cache.load(*PLACE, recorded) is None
    assert cache.load("Adam", 0.02, 7, (1, 2)) is None


def test_nothing_is_kept_without_a_directory():
    cache = RunCache()
    assert cache.save(*PLACE, RUN) is RUN
    assert cache.load(*PLACE, (1, 2)) is None


def _with(**changes):
    """Other entries, in a file of a version before digests."""

    def change(text):
        document = json.loads(text)
        del document["digest"]
        return json.dumps({**document, **changes})

    return change


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: "",
        lambda text: text[:-9],
        lambda text: "[]",
        lambda text: "{}",
        lambda text: "[" * 100_000,
        lambda text: "\0" * 100,
        lambda text: text.replace("3.0", "1e999"),
        lambda text: text.replace("3.0", "Infinity"),
        lambda text: text.replace("3.0", "1" * 5000),
        _with(losses=[3.0, 1.0]),
        _with(losses=[True] * 3),
        _with(losses="abc"),
        _with(losses=7),
        _with(losses=[[3.0]] * 3),
        _with(test_losses=[1.0]),
        _with(test_losses={}),
        _with(test_losses={"x": 1.0}),
        _with(test_losses={"2": "low"}),
        _with(seconds="fast"),
    ],
)
def test_a_damaged_file_is_named_and_kept(tmp_path, cache, damage):
    (path,) = tmp_path.rglob("*.json")
    path.write_text(damage(path.read_text()))
    damaged = path.read_bytes()
    with pytest.raises(ValueError, match=r"0.01-7.json'.*Delete it to train"):
        cache.load(*PLACE, (1, 2))
    assert path.read_bytes() == damaged


def test_figures_that_were_edited_are_refused(cache, tmp_path):
    (path,) = tmp_path.rglob("*.json")
    path.write_text(path.read_text().replace("2.5", "2.4"))
    with pytest.raises(ValueError, match=r"0.01-7.json'.*it was changed"):
        cache.load(*PLACE, (1, 2))


def test_a_file_in_the_place_of_another_run_is_refused(cache, tmp_path):
    (path,) = tmp_path.rglob("*.json")
    path.rename(path.with_name("0.02-7.json"))
    with pytest.raises(ValueError, match="moved from that of another run"):
        cache.load("Adam", 0.02, 7, (1, 2))


def test_a_file_without_a_digest_is_read_as_before(cache, tmp_path):
    (path,) = tmp_path.rglob("*.json")
    path.write_text(_with(seconds=7.0)(path.read_text()))
    assert cache.load(*PLACE, (1, 2)).seconds == 7.0


def test_a_file_beyond_all_sizes_is_not_read(tmp_path, cache, monkeypatch):
    monkeypatch.setattr("keras_l2l.evaluation.run_cache._MAX_BYTES", 10)
    with pytest.raises(ValueError, match="more than 10"):
        cache.load(*PLACE, (1, 2))

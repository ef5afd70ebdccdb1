"""Which episode a slot begins."""

import pytest

from keras_l2l import MetaTrainer, rules, tasks
from keras_l2l.tasks.base import episode_seed

SLOTS = 3


def _pool(**arguments):
    trainer = MetaTrainer(
        rules.SGD(),
        tasks.Quadratic(2),
        horizon=(2, 64),
        unroll=2,
        optimizees=SLOTS,
        seed=4,
        **arguments,
    )
    return trainer._pool


def _start(pool, batch):
    """Begins episodes in the idle slots of a batch."""
    config = pool._config
    seeds = pool._begin_episodes(batch)
    batch.start(config.estimator, config.rule, seeds)


def _begin(pool, rows=range(SLOTS)):
    """Fresh episodes in some slots: the seeds and lengths of all slots."""
    (batch,) = pool.batches
    for row in rows:
        batch.slots[row].running = False
        batch.slots[row].position = 2
    _start(pool, batch)
    lengths = [slot.length for slot in batch.slots]
    return list(zip(batch.carry.seed.numpy().tolist(), lengths))


def test_episodes_belong_to_their_slot():
    """Whichever slot is idle first, each begins the same episodes."""
    expected = []
    one = _pool()
    for _ in range(3):
        expected.append(_begin(one))
    assert len({episode for step in expected for episode in step}) == 9
    two = _pool()
    assert _begin(two) == expected[0]
    _begin(two, [2])
    _begin(two, [2])
    assert _begin(two, [0]) == [
        expected[1][0],
        expected[0][1],
        expected[2][2],
    ]
    assert _begin(two, [1, 0]) == [
        expected[2][0],
        expected[1][1],
        expected[2][2],
    ]


def test_the_state_tells_which_episode_is_next():
    one, two = _pool(), _pool()
    _begin(one)
    _begin(one, [1])
    arrays, document = one.state()
    two.restore(iter(arrays), document)
    assert _begin(two) == _begin(one)


def test_a_run_of_an_earlier_version_keeps_its_order():
    """There the seed counted the episodes of all slots."""
    pool = _pool()
    _begin(pool)
    arrays, document = pool.state()
    for slots in document["groups"]:
        for slot in slots:
            del slot["episodes"]
    pool.restore(iter(arrays), {**document, "episodes": 10})
    for index, row in enumerate([2, 0, 2, 1]):
        seed, _ = _begin(pool, [row])[row]
        assert seed == episode_seed(4, "train", 10 + index)
    arrays, document = pool.state()
    assert document["episodes"] == 14
    again = _pool()
    again.restore(iter(arrays), document)
    assert _begin(again, [1]) == _begin(pool, [1])


@pytest.mark.parametrize("clipnorm", [None, 1.0])
def test_slots_are_numbered_over_all_batches(clipnorm):
    trainer = MetaTrainer(
        rules.SGD(),
        [tasks.Quadratic(2), tasks.Quadratic(3)],
        optimizees=SLOTS,
        clipnorm=clipnorm,
    )
    seeds = []
    for batch in trainer._pool.batches:
        _start(trainer._pool, batch)
        seeds += batch.carry.seed.numpy().ravel().tolist()
    assert seeds == [episode_seed(0, "train", i) for i in range(2 * SLOTS)]

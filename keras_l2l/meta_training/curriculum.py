"""Episodes that become longer in the course of a meta-training."""

import dataclasses
import itertools

from keras_l2l import checks


@dataclasses.dataclass(frozen=True)
class Curriculum:
    """Increasing horizons: each is trained until its validation loss stalls.

    A rule that is trained at long horizons from the start learns little,
    because most of its optimizees are far from a good solution all the time;
    a rule that is trained only at short horizons fails later. So a run begins
    with the first horizon and validates at the second. After `patience`
    validations in a row without a lower loss, it goes back to the
    meta-parameters with the lowest loss and continues at the second horizon,
    and so on.

    Pass it as the `horizon` of a `MetaTrainer`. At the last horizon, training
    and validation have the same length, and the run ends after its epochs or
    by `keras.callbacks.EarlyStopping`. The logs have the `horizon` of each
    epoch; values of `val_loss` compare only within one.

    Args:
        horizons: Tuple of two or more integers, ascending multiples of
            `unroll`. Inner steps in an episode.
        patience: Integer. Validations without a lower loss before the next
            horizon. Defaults to `2`.

    Raises:
        ValueError: If the horizons do not ascend.

    Example:

    ```python
    trainer = MetaTrainer(rule, task, horizon=Curriculum((100, 200, 500, 1000)))
    trainer.compile(keras.optimizers.Adam(1e-3))
    trainer.fit(epochs=100, validation_task=task)
    ```

    Reference:
        [Chen et al., 2020](https://arxiv.org/abs/2010.09089), section 3.1.
    """

    horizons: tuple[int, ...]
    patience: int = 2

    def __post_init__(self):
        checks.positive_integer_fields(self, "patience")
        horizons = [checks.positive_integer(horizons=h) for h in self.horizons]
        object.__setattr__(self, "horizons", tuple(horizons))
        if len(self.horizons) < 2 or any(
            a >= b for a, b in itertools.pairwise(self.horizons)
        ):
            raise ValueError(
                "Argument `horizons` must hold two or more integers, each "
                f"larger than the last. Received: horizons={self.horizons}"
            )


class HorizonSchedule:
    """The horizons of a run, and the stage that it has come to.

    Args:
        stages: List of pairs of integers, the shortest and the longest
            horizon of each stage. Without a curriculum there is one.
        patience: Integer, see `Curriculum`. Defaults to `1`.
    """

    def __init__(self, stages, patience=1):
        self._stages = stages
        self._patience = patience
        self._stage = 0
        self._waited = 0

    @property
    def is_curriculum(self):
        """Whether there are several stages."""
        return len(self._stages) > 1

    @property
    def horizons(self):
        """Pair of integers: inner steps of the training episodes to come."""
        return self._stages[self._stage]

    @property
    def validation_horizon(self):
        """Integer, the longest of the next stage, or of the last."""
        return self._stages[min(self._stage + 1, len(self._stages) - 1)][1]

    @property
    def longest_horizon(self):
        """Integer, the longest of all stages."""
        return self._stages[-1][1]

    def moves_on(self, improved):
        """Counts a validation, and moves to the next stage if it is time.

        Args:
            improved: Boolean. Whether the last validation had the lowest loss
                of this stage.

        Returns:
            A boolean: whether a new stage begins.
        """
        self._waited = 0 if improved else self._waited + 1
        is_last = self._stage == len(self._stages) - 1
        if self._waited < self._patience or is_last:
            return False
        self._stage += 1
        self._waited = 0
        return True

    def state(self):
        """Everything that changes from epoch to epoch, as a dict."""
        return {"stage": self._stage, "waited": self._waited}

    def restore(self, state):
        """Restores what `state` returned."""
        self._stage, self._waited = state["stage"], state["waited"]

    def settings(self):
        """What a backup must agree with, for JSON."""
        stages = [list(pair) for pair in self._stages]
        if not self.is_curriculum:
            return stages[0]
        return {"stages": stages, "patience": self._patience}

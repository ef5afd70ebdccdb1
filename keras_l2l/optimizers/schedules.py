"""The schedule of a training whose number of steps is known."""

import keras
from keras import ops

from keras_l2l import checks


@keras.saving.register_keras_serializable(package="keras_l2l")
class Cooldown(keras.optimizers.schedules.LearningRateSchedule):
    """Constant, and then linearly to zero over the last steps.

    A rule that adapts its steps needs no schedule to make progress. What it
    cannot know is that the end is near, where smaller steps average out the
    noise of the batches. So all but the last steps stay as they are.

    Args:
        learning_rate: Float. The rate before the cooldown.
        total_steps: Integer. The step at which the rate is zero.
        share: Float in (0, 1]. Share of the steps that the cooldown takes.
            Defaults to `0.4`.
        name: String. Defaults to `"cooldown"`.

    Example:

    >>> schedule = Cooldown(1.0, total_steps=100)
    >>> [float(schedule(step)) for step in (0, 60, 80, 100)]
    [1.0, 1.0, 0.5, 0.0]

    Reference:
        [Hägele et al., 2024](https://arxiv.org/abs/2405.18392)
    """

    def __init__(self, learning_rate, total_steps, share=0.4, name="cooldown"):
        super().__init__()
        total_steps = checks.positive_integer(total_steps=total_steps)
        if not 0.0 < share <= 1.0:
            raise ValueError(
                "Argument `share` must be in the range (0, 1]. "
                f"Received: share={share}"
            )
        self.learning_rate = learning_rate
        self.total_steps = total_steps
        self.share = share
        self.name = name

    def __call__(self, step):
        left = (self.total_steps - ops.cast(step, "float32")) / (
            self.share * self.total_steps
        )
        return self.learning_rate * ops.clip(left, 0.0, 1.0)

    def get_config(self):
        return {
            "learning_rate": self.learning_rate,
            "total_steps": self.total_steps,
            "share": self.share,
            "name": self.name,
        }


def until(total_steps, learning_rate):
    """The learning rate, or the schedule along which it falls to zero.

    Args:
        total_steps: Integer, or `None` for the learning rate as it is.
        learning_rate: A float; without `total_steps` also whatever else a
            Keras optimizer takes.

    Returns:
        The `learning_rate` or a `Cooldown`.

    Raises:
        ValueError: If `learning_rate` is not a float and `total_steps` is set.
    """
    if total_steps is None:
        return learning_rate
    if not isinstance(learning_rate, (int, float)):
        raise ValueError(
            "Argument `learning_rate` must be a float where `total_steps` is "
            "set, which makes a schedule of it. "
            f"Received: learning_rate={learning_rate!r}, "
            f"total_steps={total_steps}"
        )
    return Cooldown(learning_rate, total_steps)

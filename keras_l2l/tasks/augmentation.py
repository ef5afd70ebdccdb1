"""Task augmentation: in each episode a random variant of a task.

An augmentation takes a task and is a task, so that augmentations can be
nested. The random numbers of an episode are the first entries of the model
state, so that they stay with the optimizee.
"""

import abc

import numpy as np
import tensorflow as tf

from keras_l2l import checks
from keras_l2l.tasks.base import Task


class Augmentation(Task):
    """Base class of the tasks that wrap another one.

    Args:
        task: A `Task`.
        suffix: String, added to the name of the task.
    """

    def __init__(self, task: Task, suffix: str):
        if not isinstance(task, Task):
            raise TypeError(
                "Argument `task` must be a `keras_l2l.tasks.Task`. "
                f"Received: task={task!r}"
            )
        super().__init__(f"{task.name}-{suffix}")
        self.task = task

    @property
    def parameter_paths(self):
        return self.task.parameter_paths

    def sample_held_out_batch(self, seed):
        return self.task.sample_held_out_batch(seed)

    def _generator(self, seed):
        """The generator of an episode, different for nested augmentations."""
        return np.random.default_rng([seed, len(list(_inner_tasks(self)))])


class _Rescaling(Augmentation):
    """Base class of the augmentations that train w / c instead of w.

    The loss is the task's loss at c w: the same optimization problem in other
    coordinates. The model state holds a c for each parameter, which
    broadcasts to it.
    """

    @abc.abstractmethod
    def _scales(self, generator, parameters):
        """Draws the c of an episode: list with an array a parameter."""

    def initial_parameters(self, seed):
        parameters, state = self.task.initial_parameters(seed)
        scales = [
            tf.constant(scale, parameter.dtype)
            for scale, parameter in zip(
                self._scales(self._generator(seed), parameters), parameters
            )
        ]
        parameters = [p / scale for p, scale in zip(parameters, scales)]
        return parameters, [*scales, *state]

    def sample_batch(self, seed):
        return self.task.sample_batch(seed)

    def loss(self, parameters, model_state, batch):
        scales, parameters, state = self._unscaled(parameters, model_state)
        loss, state = self.task.loss(parameters, state, batch)
        return loss, [*scales, *state]

    def held_out_loss(self, parameters, model_state, batch):
        _, parameters, state = self._unscaled(parameters, model_state)
        return self.task.held_out_loss(parameters, state, batch)

    def test_loss(self, parameters, model_state):
        _, parameters, state = self._unscaled(parameters, model_state)
        return self.task.test_loss(parameters, state)

    @staticmethod
    def _unscaled(parameters, model_state):
        """Splits off the scales; undoes the scaling for the inner task."""
        count = len(parameters)
        scales, state = model_state[:count], model_state[count:]
        return scales, [p * c for p, c in zip(parameters, scales)], state


class RandomScaling(_Rescaling):
    """Scales each coordinate of the optimizee at random.

    With c = exp(u), u uniform in [-spread, spread], drawn for each coordinate
    in each episode, the loss is the task's loss at c ⊙ x, and x starts at
    x₀ / c. A rule that is trained on it cannot rely on the scale of its
    tasks' gradients, and generalises to others.

    Args:
        task: A `Task`.
        spread: Float > 0. The largest u. Defaults to `3.0`.

    Raises:
        TypeError: If `task` is not a `Task`.
        ValueError: If `spread` is not positive.

    Example:

    >>> task = keras_l2l.tasks.RandomScaling(keras_l2l.tasks.digits_mlp())
    >>> trainer = keras_l2l.MetaTrainer(rule, task)

    Reference:
        [Lv et al., 2017](https://arxiv.org/abs/1703.03633), section 4.1.
    """

    def __init__(self, task: Task, spread: float = 3.0):
        super().__init__(task, "scaled")
        checks.positive_numbers(spread=spread)
        self.spread = float(spread)

    def _scales(self, generator, parameters):
        return [
            np.exp(generator.uniform(-self.spread, self.spread, p.shape))
            for p in parameters
        ]


class Reparametrization(_Rescaling):
    """Scales each tensor of the optimizee, or all of them, at random.

    With s log-uniform in [low, high], drawn in each episode, the loss is the
    task's loss at s w, and w starts at w₀ / s. A rule that is trained on it
    learns steps relative to the size of a tensor.

    Args:
        task: A `Task`.
        low: Float > 0. The smallest s. Defaults to `1e-3`.
        high: Float >= `low`. The largest s. Defaults to `1e3`.
        level: `"tensor"`, an s for each parameter, or `"model"`, one for all
            of them. Defaults to `"tensor"`.

    Raises:
        TypeError: If `task` is not a `Task`.
        ValueError: If another argument is out of its range.

    Example:

    >>> task = keras_l2l.tasks.Reparametrization(
    ...     keras_l2l.tasks.digits_mlp(), level="model"
    ... )

    Reference:
        [Moudgil et al., 2025](https://arxiv.org/abs/2501.12670)
    """

    def __init__(
        self,
        task: Task,
        low: float = 1e-3,
        high: float = 1e3,
        level: str = "tensor",
    ):
        super().__init__(task, "reparametrized")
        check_bounds(low, high)
        if level not in ("tensor", "model"):
            raise ValueError(
                'Argument `level` must be "tensor" or "model". '
                f"Received: level={level!r}"
            )
        self.low, self.high = float(low), float(high)
        self.level = level

    def _scales(self, generator, parameters):
        draws = generator.uniform(size=len(parameters))
        if self.level == "model":
            draws[:] = draws[0]
        return [log_interpolate(self.low, self.high, draw) for draw in draws]


class GradientNoise(Augmentation):
    """Adds Gaussian noise to the gradients of the optimizee, not to its loss.

    The standard deviation for a tensor is a share of the root mean square of
    the episode's first gradient; the share is drawn in each episode,
    log-uniform in [low, high]. The deviation stays constant while gradients
    shrink, as the noise of small batches does. XLA draws other noise.

    Args:
        task: A `Task`.
        low: Float > 0. The smallest share. Defaults to `1e-3`.
        high: Float >= `low`. The largest share. Defaults to `1.0`.

    Raises:
        TypeError: If `task` is not a `Task`.
        ValueError: If `low` or `high` is out of its range.

    Example:

    >>> task = keras_l2l.tasks.GradientNoise(keras_l2l.tasks.digits_mlp())
    """

    def __init__(self, task: Task, low: float = 1e-3, high: float = 1.0):
        super().__init__(task, "noisy")
        check_bounds(low, high)
        self.low, self.high = float(low), float(high)
        # Cached now, since a `tf.function` cannot build a model.
        self._noise_specs = task.parameter_specs
        self._first_sizes = tf.function(self._gradient_sizes, autograph=False)

    def initial_parameters(self, seed):
        parameters, state = self.task.initial_parameters(seed)
        draw = self._generator(seed).uniform()
        share = log_interpolate(self.low, self.high, draw)
        sizes = self._first_sizes(parameters, state, tf.constant([seed, 0]))
        deviations = [
            tf.cast(share, p.dtype) * size for p, size in zip(parameters, sizes)
        ]
        return parameters, [*deviations, *state]

    def sample_batch(self, seed):
        # Seeds that differ from the seed of the batch.
        noise = [
            tf.random.stateless_normal(
                spec.shape,
                tf.random.fold_in(seed, index + 1),
                dtype=spec.dtype,
            )
            for index, spec in enumerate(self._noise_specs)
        ]
        return self.task.sample_batch(seed), noise

    def loss(self, parameters, model_state, batch):
        batch, noise = batch
        count = len(noise)
        deviations, state = model_state[:count], model_state[count:]
        loss, state = self.task.loss(parameters, state, batch)
        for parameter, deviation, normal in zip(parameters, deviations, noise):
            # The term is zero, and its gradient is the noise.
            zeros = parameter - tf.stop_gradient(parameter)
            term = tf.reduce_sum(deviation * normal * zeros)
            loss += tf.cast(term, loss.dtype)
        return loss, [*deviations, *state]

    def held_out_loss(self, parameters, model_state, batch):
        state = model_state[len(self._noise_specs) :]
        return self.task.held_out_loss(parameters, state, batch)

    def test_loss(self, parameters, model_state):
        state = model_state[len(self._noise_specs) :]
        return self.task.test_loss(parameters, state)

    def _gradient_sizes(self, parameters, state, seed):
        """Root mean squares of the gradients on the first batch."""
        with tf.GradientTape() as tape:
            tape.watch(parameters)
            loss, _ = self.task.loss(
                parameters, state, self.task.sample_batch(seed)
            )
        gradients = tape.gradient(
            loss,
            parameters,
            unconnected_gradients=tf.UnconnectedGradients.ZERO,
        )
        return [
            tf.sqrt(tf.reduce_mean(tf.convert_to_tensor(g) ** 2))
            for g in gradients
        ]


class RandomBatchSize(Augmentation):
    """Repeats some examples of each batch: gradients of a smaller batch.

    The number of different examples is drawn in each episode, log-uniform
    between `low` and the batch size. Repeating them fills the batch, so that
    shapes stay static.

    Args:
        task: A `Task` whose batches are structures of tensors with a common
            first axis, that of the examples. `GradientNoise` must be the
            outer one: `GradientNoise(RandomBatchSize(task))`.
        low: Integer, at most the batch size. The fewest different examples.
            Defaults to `4`.

    Raises:
        TypeError: If `task` is not a `Task`.
        ValueError: If its batches have no common first axis, or if `low` is
            out of its range.

    Example:

    >>> task = keras_l2l.tasks.RandomBatchSize(keras_l2l.tasks.digits_mlp())
    """

    def __init__(self, task: Task, low: int = 4):
        super().__init__(task, "batched")
        self.low = checks.positive_integer(low=low)
        self._size = _examples(task)
        if low > self._size:
            raise ValueError(
                "Argument `low` must not exceed the examples in a batch, "
                f"{self._size}. Received: low={low}"
            )

    def initial_parameters(self, seed):
        parameters, state = self.task.initial_parameters(seed)
        draw = self._generator(seed).uniform()
        count = round(self.low * (self._size / self.low) ** draw)
        return parameters, [tf.constant(count, tf.int32), *state]

    def sample_batch(self, seed):
        return self.task.sample_batch(seed)

    def loss(self, parameters, model_state, batch):
        count, *state = model_state
        indices = tf.range(self._size) % count
        batch = tf.nest.map_structure(
            lambda tensor: tf.gather(tensor, indices), batch
        )
        loss, state = self.task.loss(parameters, state, batch)
        return loss, [count, *state]

    def held_out_loss(self, parameters, model_state, batch):
        return self.task.held_out_loss(parameters, model_state[1:], batch)

    def test_loss(self, parameters, model_state):
        return self.task.test_loss(parameters, model_state[1:])


def _inner_tasks(task):
    """Yields the tasks inside a task, the original one last."""
    while isinstance(task, Augmentation):
        task = task.task
        yield task


def _examples(task):
    """The number of examples in a batch of a task."""
    batch = task.sample_batch(tf.constant([0, 0]))
    shapes = [tuple(tensor.shape) for tensor in tf.nest.flatten(batch)]
    sizes = {shape[:1] for shape in shapes}
    is_noisy = any(
        isinstance(inner, GradientNoise)
        for inner in (task, *_inner_tasks(task))
    )
    if is_noisy or len(sizes) != 1 or sizes == {()}:
        raise ValueError(
            "Argument `task` must have batches of tensors with a common first "
            "axis, that of the examples, and hold no `GradientNoise`, which "
            f"goes outside. Received: task={task}, with a batch of tensors of "
            f"shapes {shapes}"
        )
    return sizes.pop()[0]


def log_interpolate(low, high, share):
    """The number at a share of the way from `low` to `high`, in logarithms.

    A uniform draw in [0, 1] as the share makes it log-uniform.
    """
    return low * (high / low) ** share


def check_bounds(low, high):
    """Raises a `ValueError` if these are no bounds of a log-uniform draw."""
    checks.positive_numbers(low=low)
    if not low <= high < float("inf"):
        raise ValueError(
            "Argument `high` must be a number not below `low`. "
            f"Received: low={low!r}, high={high!r}"
        )

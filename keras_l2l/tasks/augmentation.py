"""Task augmentation: other tasks out of one, a new one each episode.

Each augmentation takes a task and is one, so they can be put into one another.
What it draws for an episode stands first in the model state, and so travels
with the optimizee.
"""

import abc

import numpy as np
import tensorflow as tf

from keras_l2l import checks
from keras_l2l.tasks.base import Task


class _Augmentation(Task):
    """Base of the tasks that hold another one.

    Args:
        task: A `Task`.
        suffix: String, added to the name of the task.
    """

    def __init__(self, task, suffix):
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

    def _generator(self, seed):
        """What an episode draws from; in each augmentation another one."""
        return np.random.default_rng([seed, len(list(_inner_tasks(self)))])


class _Rescaling(_Augmentation):
    """Base of the augmentations that train w / c in place of w.

    The loss is that of the task at c w, so each episode is the same
    optimization problem in other coordinates. The model state holds a
    c for each parameter, which broadcasts to it.
    """

    @abc.abstractmethod
    def _scales(self, generator, parameters):
        """The c of an episode: list of arrays, one for each parameter."""

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

    def test_loss(self, parameters, model_state):
        _, parameters, state = self._unscaled(parameters, model_state)
        return self.task.test_loss(parameters, state)

    @staticmethod
    def _unscaled(parameters, model_state):
        """The scales, and parameters and model state of the inner task."""
        count = len(parameters)
        scales, state = model_state[:count], model_state[count:]
        return scales, [p * c for p, c in zip(parameters, scales)], state


class RandomScaling(_Rescaling):
    """Each coordinate of the optimizee at a random scale of its own.

    With c = exp(u), u uniform in [-spread, spread], drawn for each coordinate
    in each episode, the loss is that of the task at c ⊙ x, and x starts at
    x₀ / c. A rule that is trained so cannot rely on the scales of the
    gradients of its tasks, and holds on others.

    Args:
        task: A `Task`.
        spread: Float > 0. Defaults to `3.0`.

    Example:

    >>> task = tasks.RandomScaling(tasks.digits_mlp())
    >>> trainer = keras_l2l.MetaTrainer(rule, task)

    Reference:
        [Lv et al., 2017](https://arxiv.org/abs/1703.03633), section 4.1.
    """

    def __init__(self, task, spread=3.0):
        super().__init__(task, "scaled")
        checks.positive_numbers(spread=spread)
        self.spread = float(spread)

    def _scales(self, generator, parameters):
        return [
            np.exp(generator.uniform(-self.spread, self.spread, p.shape))
            for p in parameters
        ]


class Reparametrization(_Rescaling):
    """Each tensor of the optimizee, or all of them, at a random scale.

    With s log-uniform between two bounds, drawn in each episode, the loss is
    that of the task at s w, and w starts at w₀ / s. A step that suits all
    these must be measured by the tensor.

    Args:
        task: A `Task`.
        low: Float > 0. The smallest s. Defaults to `1e-3`.
        high: Float >= `low`. The largest s. Defaults to `1e3`.
        level: `"tensor"`, an s for each parameter, or `"model"`, one for all
            of them. Defaults to `"tensor"`.

    Reference:
        [Moudgil et al., 2025](https://arxiv.org/abs/2501.12670)
    """

    def __init__(self, task, low=1e-3, high=1e3, level="tensor"):
        super().__init__(task, "reparametrized")
        _check_bounds(low, high)
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
        return [self.low * (self.high / self.low) ** draw for draw in draws]


class GradientNoise(_Augmentation):
    """Gaussian noise in the gradients of the optimizee, not in its loss.

    Its deviation is, for each tensor, a share of the root mean square of the
    episode's first gradient; the share is drawn in each episode, log-uniformly
    between two bounds. So it matters more and more as the optimizee learns,
    as the noise of small batches does. Under XLA it is other noise.

    Args:
        task: A `Task`.
        low: Float > 0. The smallest share. Defaults to `1e-3`.
        high: Float >= `low`. The largest share. Defaults to `1.0`.
    """

    def __init__(self, task, low=1e-3, high=1.0):
        super().__init__(task, "noisy")
        _check_bounds(low, high)
        self.low, self.high = float(low), float(high)
        # Not first within a `tf.function`, where no model can be built.
        self._noise_specs = task.parameter_specs
        self._first_sizes = tf.function(self._gradient_sizes, autograph=False)

    def initial_parameters(self, seed):
        parameters, state = self.task.initial_parameters(seed)
        share = self.low * (self.high / self.low) ** (
            self._generator(seed).uniform()
        )
        sizes = self._first_sizes(parameters, state, tf.constant([seed, 0]))
        deviations = [
            tf.cast(share, p.dtype) * size for p, size in zip(parameters, sizes)
        ]
        return parameters, [*deviations, *state]

    def sample_batch(self, seed):
        # Another stream than that of the batch.
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
            # Zero, with the noise for a gradient.
            zeros = parameter - tf.stop_gradient(parameter)
            term = tf.reduce_sum(deviation * normal * zeros)
            loss += tf.cast(term, loss.dtype)
        return loss, [*deviations, *state]

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


class RandomBatchSize(_Augmentation):
    """Batches with fewer different examples, as noisy as smaller ones.

    How many is drawn in each episode, log-uniformly between `low` and all.
    They are repeated to fill the batch, so that shapes stay static.

    Args:
        task: A `Task` whose batches are structures of tensors with a common
            first axis, that of the examples. Noise in gradients goes outside:
            `GradientNoise(RandomBatchSize(task))`.
        low: Integer, at most the size of the batch. The fewest examples.
            Defaults to `4`.
    """

    def __init__(self, task, low=4):
        super().__init__(task, "batched")
        checks.positive_integers(low=low)
        self.low = low
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

    def test_loss(self, parameters, model_state):
        return self.task.test_loss(parameters, model_state[1:])


def _inner_tasks(task):
    """The tasks within a task, down to that which is no augmentation."""
    while isinstance(task, _Augmentation):
        task = task.task
        yield task


def _examples(task):
    """How many examples are in a batch of a task."""
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


def _check_bounds(low, high):
    checks.positive_numbers(low=low)
    if not low <= high < float("inf"):
        raise ValueError(
            "Argument `high` must be a number not below `low`. "
            f"Received: low={low!r}, high={high!r}"
        )

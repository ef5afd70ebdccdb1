"""The task: a distribution of optimizees with its data."""

import abc
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf


class Task(abc.ABC):
    """Base class of all tasks: a distribution of optimizees and their data.

    A task holds no state: the same seeds always give the same numbers.
    Parameters, and everything else that changes while an optimizee trains
    (batch-norm statistics, dropout seeds), are passed in and returned.

    Args:
        name: String. The name of the task in tables and plots.

    Example:

    >>> class Parabola(keras_l2l.tasks.Task):
    ...     def initial_parameters(self, seed):
    ...         return [tf.random.stateless_normal((3,), [seed, 0])], []
    ...
    ...     def sample_batch(self, seed):
    ...         return tf.random.stateless_normal((3,), seed)
    ...
    ...     def loss(self, parameters, model_state, batch):
    ...         error = parameters[0] - 0.1 * batch
    ...         return tf.reduce_mean(error**2), model_state
    ...
    ...     def test_loss(self, parameters, model_state):
    ...         return float(tf.reduce_mean(parameters[0] ** 2))
    >>> task = Parabola("parabola")
    >>> task.parameter_specs
    [TensorSpec(shape=(3,), dtype=tf.float32, name=None)]
    """

    def __init__(self, name: str):
        self.name = name

    @abc.abstractmethod
    def initial_parameters(
        self, seed: int
    ) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
        """Returns a new optimizee. Runs eagerly, once an episode.

        Args:
            seed: Integer in [0, 2³¹).

        Returns:
            Tuple `(parameters, model_state)` of two lists of tensors. Their
            shapes and dtypes must not depend on the seed.
        """

    @abc.abstractmethod
    def sample_batch(self, seed: Any) -> Any:
        """Returns the data of one inner step. Runs inside a `tf.function`.

        Args:
            seed: Integer tensor `[2]`, as for `tf.random.stateless_uniform`.

        Returns:
            A structure of tensors of static shapes. May be empty.
        """

    @abc.abstractmethod
    def loss(
        self,
        parameters: Sequence[tf.Tensor],
        model_state: Sequence[tf.Tensor],
        batch: Any,
    ) -> tuple[tf.Tensor, list[tf.Tensor]]:
        """Returns the loss on one batch. Runs inside a `tf.function`.

        Args:
            parameters: List of tensors, shaped as those of
                `initial_parameters`.
            model_state: List of tensors, from `initial_parameters` or the
                last call.
            batch: Structure of tensors from `sample_batch`.

        Returns:
            Tuple `(loss, model_state)`: a scalar, and the list of tensors for
            the next call.
        """

    def sample_held_out_batch(self, seed: Any) -> Any:
        """Returns held-out data, for the meta-loss. Runs in a `tf.function`.

        No example of them is one that `sample_batch` draws. A task without
        data returns `()`: its function itself is what counts.

        Args:
            seed: Integer tensor `[2]`, none of those of `sample_batch`.

        Returns:
            A structure of tensors of static shapes.

        Raises:
            ValueError: By default, as a task has no held-out data.
        """
        raise ValueError(
            f"Task {self.name!r} has no held-out data, which a held-out loss "
            "is computed on. Pass `validation_data=…` to a `KerasTask`, "
            "override `sample_held_out_batch` in a task of your own, or keep "
            '`meta_loss="training"`.'
        )

    def held_out_loss(
        self,
        parameters: Sequence[tf.Tensor],
        model_state: Sequence[tf.Tensor],
        batch: Any,
    ) -> tf.Tensor:
        """Returns the loss on held-out data. Runs inside a `tf.function`.

        In inference mode, for a task that has one. The model state is read
        and stays as it is: looking at held-out data changes no training.

        Args:
            parameters: List of tensors, as for `loss`.
            model_state: List of tensors, as for `loss`.
            batch: Structure of tensors from `sample_held_out_batch`.

        Returns:
            A scalar. Defaults to that of `loss`, for a task that is the same
            in training and in inference.
        """
        loss, _ = self.loss(parameters, model_state, batch)
        return loss

    @abc.abstractmethod
    def test_loss(
        self,
        parameters: Sequence[tf.Tensor],
        model_state: Sequence[tf.Tensor],
    ) -> float:
        """Returns the loss on held-out data, in inference mode. Runs eagerly.

        The loss itself, for a task without data.

        Args:
            parameters: List of tensors, as for `loss`.
            model_state: List of tensors, as for `loss`.

        Returns:
            A float.
        """

    def test_metrics(
        self,
        parameters: Sequence[tf.Tensor],
        model_state: Sequence[tf.Tensor],
    ) -> dict[str, float]:
        """Returns figures on held-out data, in inference mode. Runs eagerly.

        Args:
            parameters: List of tensors.
            model_state: List of tensors.

        Returns:
            Dict from names to floats: `"loss"`, that of `test_loss`, and
            perhaps `"accuracy"`. Defaults to the loss alone.
        """
        return {"loss": self.test_loss(parameters, model_state)}

    @functools.cached_property
    def parameter_specs(self) -> list[tf.TensorSpec]:
        """The shape and dtype of each parameter."""
        parameters, _ = self.initial_parameters(0)
        return [tf.TensorSpec(p.shape, p.dtype) for p in parameters]

    @property
    def parameter_paths(self) -> list[str] | None:
        """The path of each parameter in its model, as in `variable.path`.

        Defaults to `None`, for a task without a model.
        """
        return None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r}>"


# Streams of seeds: no two of them share an episode.
SEED_STREAMS = ("train", "validation", "sweep", "test")


def episode_seed(seed, stream, index):
    """Hashes a run's seed, a stream and an index to the seed of an episode.

    Args:
        seed: Non-negative integer, the seed of the whole run.
        stream: One of `SEED_STREAMS`.
        index: Non-negative integer, the episode's number in the stream.

    Returns:
        An integer in [0, 2³¹).
    """
    entropy = [seed, SEED_STREAMS.index(stream), index]
    word = np.random.SeedSequence(entropy).generate_state(1)[0]
    return int(word) & 0x7FFFFFFF

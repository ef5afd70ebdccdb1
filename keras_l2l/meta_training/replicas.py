"""The replicas of a `tf.distribute` strategy, which optimizees are dealt to.

Replica `r` of `W` trains the slots `r`, `r + W`, `r + 2W`, … So each takes part
in every task that has at least `W` optimizees. Every process holds the same
meta-parameters: one all-reduce an outer step sums the meta-gradients, and all
apply the same update.
"""

import concurrent.futures
import contextlib
import dataclasses
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

_SUPPORTED = (
    tf.distribute.MirroredStrategy,
    tf.distribute.MultiWorkerMirroredStrategy,
)


@dataclasses.dataclass(frozen=True)
class Replica:
    """A replica that runs in this process.

    Attributes:
        index: Integer, its number among all replicas.
        device: String; `None`, wherever TensorFlow places operations.
        rule: The `UpdateRule` whose meta-parameters lie on that device.
    """

    index: int
    device: Any
    rule: Any


class Replicas:
    """The replicas of a meta-training, of which some run in this process.

    Args:
        strategy: The `tf.distribute.Strategy` of the trainer; `None` without
            one.
        rule: The `UpdateRule` that is trained.

    Attributes:
        count: Integer, the number of replicas in all processes.
        local: List of the `Replica`s of this process.
        workers: Integer, the number of processes.
        is_chief: Boolean. Whether this process is the one that writes files.
        lock: Held while a replica creates optimizees or traces a function, as
            Keras does not promise that threads can do both at once.

    Raises:
        ValueError: If the strategy is of another kind, or not that of the
            rule.
    """

    def __init__(self, strategy: Any, rule: Any):
        self.lock = threading.Lock()
        self.count, self.workers = 1, 1
        self.is_chief = is_chief(strategy)
        self.local = [Replica(0, None, rule)]
        if strategy is None:
            return
        _check(strategy, rule)
        self._all_reduce = _compile_all_reduce(strategy)
        devices = strategy.extended.worker_devices
        self.count = strategy.num_replicas_in_sync
        self.workers = self.count // len(devices)
        first = 0
        if self.workers > 1:
            first = _worker_index(strategy) * len(devices)
        rules = [rule, *_copies(rule, devices[1:])]
        self.local = [
            Replica(first + index, device if len(devices) > 1 else None, copy)
            for index, (device, copy) in enumerate(zip(devices, rules))
        ]

    def check_scope(self) -> None:
        """Raises a `ValueError` within the scope of a strategy."""
        if tf.distribute.has_strategy():
            raise ValueError(
                "Call `trainer.fit()` outside `with strategy.scope():`. Only "
                "the rule, the `MetaTrainer` and its optimizer are created, "
                "and `compile()` is called, inside."
            )

    def run(self, function: Callable[[Replica], Any]) -> list[Any]:
        """Calls a function for each replica of this process, in parallel.

        Args:
            function: Function of a `Replica`, run under its device.

        Returns:
            List of what it returned.
        """
        if len(self.local) == 1:
            return [function(self.local[0])]
        rule = self.local[0].rule
        for replica in self.local[1:]:
            replica.rule.set_weights(rule.get_weights())

        def call(replica):
            with tf.device(replica.device):
                return function(replica)

        with concurrent.futures.ThreadPoolExecutor(len(self.local)) as pool:
            return list(pool.map(call, self.local))

    def call_cached(
        self, functions: dict, key: Any, make: Callable, *arguments: Any
    ) -> Any:
        """Calls a function that is made, and traced, at its first call.

        Args:
            functions: Dict, the cache.
            key: The function's key there.
            make: Function without arguments, which makes it.
            *arguments: The function's arguments.

        Returns:
            What it returns.
        """
        if key in functions:
            return functions[key](*arguments)
        with self.lock:
            functions[key] = make()
            return functions[key](*arguments)

    def sum(self, array: np.ndarray) -> np.ndarray:
        """Sums an array over the processes, in all of which this is called.

        Args:
            array: Array of float64 or int64, of one shape everywhere.

        Returns:
            Array like `array`.

        Raises:
            RuntimeError: If a process has ended.
        """
        if self.workers == 1:
            return array
        try:
            return self._all_reduce(array)
        except tf.errors.OpError as error:
            raise RuntimeError(
                "A worker of this run has ended or cannot be reached, so the "
                "others cannot go on. Start all of them again: with "
                "`fit(backup_dir=…)` the run goes on from its last epoch, "
                f"with the same numbers. TensorFlow says: {error!s:.300}"
            ) from error

    def sum_bits(self, arrays: list[np.ndarray]) -> list[np.ndarray]:
        """`sum` of arrays whose elements are zero in all processes but one.

        Args:
            arrays: List of arrays of any dtype.

        Returns:
            List of arrays, with every bit of the elements.
        """
        if self.workers == 1:
            return arrays
        content = np.frombuffer(b"".join(a.tobytes() for a in arrays), "uint8")
        padded = np.pad(content, (0, -content.size % 8))
        summed = self.sum(padded.view("int64")).view("uint8")
        ends = np.cumsum([array.nbytes for array in arrays])
        return [
            part.view(array.dtype).reshape(array.shape)
            for part, array in zip(np.split(summed, ends), arrays)
        ]

    def broadcast(self, content: bytes | None) -> bytes | None:
        """Gives all processes what the chief has.

        Args:
            content: Bytes, or `None`; in other processes than the chief's it
                does not matter.

        Returns:
            That of the chief.
        """
        if self.workers == 1:
            return content
        mine = content if self.is_chief else None
        size = -1 if mine is None else len(mine)
        size = int(self.sum(np.array([size if self.is_chief else 0]))[0])
        if size < 0:
            return None
        array = np.zeros(size, "uint8")
        if mine is not None:
            array[:] = np.frombuffer(mine, "uint8")
        return self.sum_bits([array])[0].tobytes()

    def wait(self) -> None:
        """Waits for all processes."""
        self.any(False)

    def any(self, flag: bool) -> bool:
        """Whether a flag is set in any process.

        Args:
            flag: Boolean.

        Returns:
            A boolean, the same everywhere.
        """
        return bool(self.sum(np.array([int(flag)]))[0])


def replica_of(slot: int, replicas: int) -> int:
    """The index of the replica that trains a slot.

    Args:
        slot: Integer, the number of the slot among those of all batches.
        replicas: Integer, the number of replicas.

    Returns:
        An integer.
    """
    return slot % replicas


def is_chief(strategy: Any) -> bool:
    """Whether this process is the one that writes files.

    Args:
        strategy: A `tf.distribute.Strategy` or `None`.

    Returns:
        A boolean.
    """
    return strategy is None or strategy.extended.should_checkpoint


def scope(strategy: Any) -> Any:
    """The scope of a strategy, or none.

    Args:
        strategy: A `tf.distribute.Strategy` or `None`.

    Returns:
        A context manager.
    """
    return contextlib.nullcontext() if strategy is None else strategy.scope()


def _worker_index(strategy):
    """The number of this process among all that train, the chief first."""
    resolver = strategy.cluster_resolver
    follows_chief = (
        resolver.task_type == "worker"
        and "chief" in resolver.cluster_spec().jobs
    )
    return resolver.task_id + follows_chief


def _check(strategy, rule):
    if not isinstance(strategy, _SUPPORTED):
        raise ValueError(
            "A `MetaTrainer` can be created under a `MirroredStrategy` or a "
            "`MultiWorkerMirroredStrategy`, or under none. "
            f"Received: {type(strategy).__name__}"
        )
    for variable in rule.variables:
        own = getattr(variable.value, "distribute_strategy", None)
        if own is not strategy:
            raise ValueError(
                "Argument `rule` must be created under the strategy of its "
                "`MetaTrainer`. Create both, and the optimizer, inside one "
                "`with strategy.scope():`. "
                f"Received: rule={rule}, with variables under "
                f"{'no strategy' if own is None else type(own).__name__}"
            )


def _copies(rule, devices):
    """Rules like another one, with meta-parameters on other devices."""

    def copy(device):
        with tf.device(device):
            return type(rule).from_config(rule.get_config())

    # A thread leaves the scope, in which variables would be on all devices.
    with concurrent.futures.ThreadPoolExecutor(1) as thread:
        return list(thread.map(copy, devices))


def _compile_all_reduce(strategy):
    """A function that sums an array over all processes of a strategy."""
    devices = strategy.extended.worker_devices

    @tf.function(autograph=False)
    def reduce(values):
        with tf.device(devices[0]):
            if len(devices) == 1:
                values = tf.identity(values)
            return strategy.reduce(
                tf.distribute.ReduceOp.SUM, values, axis=None
            )

    def all_reduce(array):
        # The other replicas of this process add nothing.
        arrays = iter([array, *[np.zeros_like(array)] * (len(devices) - 1)])
        return reduce(
            strategy.experimental_distribute_values_from_function(
                lambda _: tf.constant(next(arrays))
            )
        ).numpy()

    return all_reduce

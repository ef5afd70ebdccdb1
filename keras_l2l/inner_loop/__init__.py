"""The inner loop: a rule trains an optimizee."""

from keras_l2l import checks

checks.needs_tensorflow("`keras_l2l.inner_loop` needs")

from keras_l2l.inner_loop.batched_task import BatchedTask
from keras_l2l.inner_loop.episode import Carry, start, unpack
from keras_l2l.inner_loop.unroll import (
    Trajectory,
    compile_unroll,
    inner_step,
    unroll,
)

__all__ = [
    "BatchedTask",
    "Carry",
    "Trajectory",
    "compile_unroll",
    "inner_step",
    "start",
    "unpack",
    "unroll",
]

"""NTM-BFGS: a coordinatewise LSTM with an external memory."""

from typing import Any

import keras
from keras import ops

from keras_l2l import checks
from keras_l2l.rules.bfgs_heads import BFGSHeads
from keras_l2l.rules.external_memory import FullMemory, LowRankMemory
from keras_l2l.rules.lstm import LSTMRule
from keras_l2l.rules.secant_memory import FullSecantMemory, LowRankSecantMemory


@keras.saving.register_keras_serializable(package="keras_l2l")
class NTMBFGS(LSTMRule):
    """An LSTM with averaging cells that reads and writes a shared memory.

    The memory `M` has a row and a column for each of the `n` coordinates of
    all parameters, like the estimate of the inverse Hessian in BFGS, and
    starts as the identity. At each step the network emits, in addition to
    the update:

    - for each read head a vector `r`; `M r` is an input at the next step;
    - for each write head two vectors `a` and `b`; `a bᵀ` is added to `M`.

    BFGS itself needs one read head and three write heads.

    Args:
        units: Integer. Units of each LSTM layer. Defaults to `20`.
        layers: Integer. Number of LSTM layers. Defaults to `2`.
        averaging_cells: Integer in [0, units], see `CoordinatewiseLSTM`.
            Defaults to `2`.
        read_heads: Integer. Number of read heads. Defaults to `1`.
        write_heads: Integer. Number of write heads. Defaults to `3`.
        memory: `"full"`, a matrix, for at most 8,192 coordinates, or
            `"low_rank"`, the last `rank` pairs `(a, b)`, as in L-BFGS.
            Defaults to `"full"`.
        rank: Integer, of `"low_rank"`: not less than `write_heads`, the
            number of pairs that a step adds. Defaults to `30`.
        initialization: `"random"`, vectors that the network emits itself, or
            `"bfgs"`: the vectors that heads read and write are those of BFGS,
            and the network weighs them by five coefficients, see
            `rules.bfgs_heads.BFGSHeads`. Its output layer starts at zero, so
            that an untrained rule is BFGS without a line search, and training
            begins with what the memory was made for. `read_heads` and
            `write_heads` are then unused: a step needs two of each. A
            low-rank memory holds the last `rank / 2` steps.
            Defaults to `"random"`.
        **kwargs: As for `CoordinatewiseLSTM`. The kernel of the linear output
            layer is `[units, 1 + read_heads + 2 * write_heads]`.

    Raises:
        ValueError: If an argument is out of its range; by `initial_state`, if
            a full memory would be too large.

    Example:

    >>> rule = keras_l2l.rules.NTMBFGS(preprocessing="raw", memory="low_rank")
    >>> parameters = [keras.ops.zeros((10,))]
    >>> state = rule.initial_state(parameters)
    >>> gradients = [keras.ops.ones_like(p) for p in parameters]
    >>> updates, state = rule(gradients, parameters, state)

    Reference:
        [Andrychowicz et al., 2016](https://arxiv.org/abs/1606.04474),
        appendix.
    """

    def __init__(
        self,
        units: int = 20,
        layers: int = 2,
        averaging_cells: int = 2,
        read_heads: int = 1,
        write_heads: int = 3,
        memory: str = "full",
        rank: int = 30,
        initialization: str = "random",
        **kwargs: Any,
    ):
        read_heads, write_heads, rank = checks.positive_integers(
            read_heads=read_heads, write_heads=write_heads, rank=rank
        )
        if memory not in ("full", "low_rank"):
            raise ValueError(
                'Argument `memory` must be "full" or "low_rank". '
                f"Received: memory={memory!r}"
            )
        if rank < write_heads:
            raise ValueError(
                "Argument `rank` must not be less than `write_heads`. "
                f"Received: rank={rank}, write_heads={write_heads}"
            )
        if initialization not in ("random", "bfgs"):
            raise ValueError(
                'Argument `initialization` must be "random" or "bfgs". '
                f"Received: initialization={initialization!r}"
            )
        is_bfgs = initialization == "bfgs"
        if is_bfgs:
            kwargs.setdefault("output_initializer", "zeros")
        super().__init__(
            extra_inputs=BFGSHeads.extra_inputs if is_bfgs else read_heads,
            outputs=(
                BFGSHeads.outputs
                if is_bfgs
                else 1 + read_heads + 2 * write_heads
            ),
            units=units,
            layers=layers,
            averaging_cells=averaging_cells,
            **kwargs,
        )
        self.read_heads = read_heads
        self.write_heads = write_heads
        self.memory = memory
        self.rank = rank
        self.initialization = initialization
        full = FullMemory()
        self._memory = full if memory == "full" else LowRankMemory(rank)
        self._bfgs_heads = None
        if is_bfgs:
            self._bfgs_heads = BFGSHeads(
                FullSecantMemory(full)
                if memory == "full"
                else LowRankSecantMemory(rank // 2)
            )

    @property
    def granularity(self):
        return "model"

    def initial_coordinate_state(self, count):
        network = super().initial_coordinate_state(count)
        if self._bfgs_heads:
            local = self._bfgs_heads.initial_local(count, self.compute_dtype)
            return {**network, **local}
        return {
            **network,
            "read": ops.zeros((count, self.read_heads), self.compute_dtype),
            **self._memory.initial_local(count, self.compute_dtype),
        }

    def initial_state(self, parameters):
        state = super().initial_state(parameters)
        count = sum(ops.shape(local["cell_0"])[0] for local in state.local)
        shared = (self._bfgs_heads or self._memory).initial_shared(
            count, self.compute_dtype
        )
        return state._replace(shared=shared)

    def update_coordinates(self, gradient, parameter, state, shared):
        if self._bfgs_heads:
            return self._bfgs_heads(
                self._run_scaled, gradient, parameter, state, shared
            )
        outputs, next_state = self.run_network(gradient, state, state["read"])
        first_write = 1 + self.read_heads
        update, reads, left, right = ops.split(
            outputs,
            [1, first_write, first_write + self.write_heads],
            axis=-1,
        )
        next_state["read"] = self._memory.read(state, shared, reads)
        written, shared = self._memory.write(state, shared, left, right)
        update = self.output_scale * ops.squeeze(update, -1)
        return update, {**next_state, **written}, shared

    def _run_scaled(self, gradient, state, *extra_inputs):
        outputs, state = self.run_network(gradient, state, *extra_inputs)
        return self.output_scale * outputs, state

    def get_config(self):
        return {
            **super().get_config(),
            "read_heads": self.read_heads,
            "write_heads": self.write_heads,
            "memory": self.memory,
            "rank": self.rank,
            "initialization": self.initialization,
        }

"""NTM-BFGS: a coordinatewise LSTM with an external memory."""

from typing import Any

import keras
from keras import ops

from keras_l2l import checks
from keras_l2l.rules.bfgs_heads import BFGSHeads
from keras_l2l.rules.lstm import LSTMRule
from keras_l2l.rules.secant_memory import FullSecantMemory, LowRankSecantMemory

# The largest number of coordinates of a full memory: 256 MB in float32.
MAX_FULL_SIZE = 8192


class FullMemory:
    """The memory as a matrix `M`, `[n, n]`, which starts as the identity.

    Reading multiplies `M` by a vector; writing adds an outer product to it.
    """

    def initial_local(self, count, dtype):
        """Returns the part of the memory that belongs to coordinates: none.

        Args:
            count: Integer or scalar integer tensor, some of the coordinates.
            dtype: String.

        Returns:
            Dict of tensors `[count, ...]`.
        """
        return {}

    def initial_shared(self, count, dtype):
        """Returns the part of the memory that all coordinates share: `M`.

        Args:
            count: Integer or scalar integer tensor, all coordinates.
            dtype: String.

        Returns:
            Dict of tensors.

        Raises:
            ValueError: If `M` would be too large.
        """
        if isinstance(count, int) and count > MAX_FULL_SIZE:
            raise ValueError(
                'Argument `memory` must be "low_rank" for more than '
                f"{MAX_FULL_SIZE} coordinates, as the full memory has a "
                "number for each pair of them. Received: "
                f'memory="full" for {count} coordinates'
            )
        return {"memory": ops.eye(count, dtype=dtype)}

    def read(self, local, shared, vectors):
        """Returns `M r` for each of some vectors `r`.

        Args:
            local: Dict with the entries of `initial_local`.
            shared: Dict with those of `initial_shared`.
            vectors: Tensor `[n, R]`, with an `r` in each column.

        Returns:
            Tensor `[n, R]`.

        Raises:
            ValueError: If the vectors are not as long as the memory is wide.
        """
        memory = shared["memory"]
        expected, received = memory.shape[-1], vectors.shape[0]
        if expected != received and None not in (expected, received):
            raise ValueError(
                "A full memory needs the gradients of all parameters at each "
                'step; `memory="low_rank"` does not. Expected: '
                f"{expected} coordinates. Received: {received}"
            )
        return ops.matmul(memory, vectors)

    def write(self, local, shared, left, right):
        """Returns the memory after a write, `M + Σ a bᵀ`.

        Args:
            local: Dict with the entries of `initial_local`.
            shared: Dict with those of `initial_shared`.
            left: Tensor `[n, W]`, with an `a` in each column.
            right: Tensor `[n, W]`, with a `b` in each column.

        Returns:
            Tuple of the next `(local, shared)`, with these entries alone.
        """
        memory = shared["memory"] + ops.matmul(left, ops.transpose(right))
        return {}, {"memory": memory}


class LowRankMemory:
    """The memory as the identity plus at most `rank` outer products.

    It stores the pairs of vectors, so that reading, `M r = r + Σ a (bᵀ r)`,
    costs `O(rank n)`. When there are more than `rank` pairs the oldest are
    dropped, as in L-BFGS; until then it equals `FullMemory`. The methods are
    those of `FullMemory`.

    Args:
        rank: Integer. The largest number of pairs.
    """

    def __init__(self, rank):
        self.rank = rank

    def initial_local(self, count, dtype):
        zeros = ops.zeros((count, self.rank), dtype)
        return {"left": zeros, "right": zeros}

    def initial_shared(self, count, dtype):
        return {}

    def read(self, local, shared, vectors):
        products = ops.matmul(ops.transpose(local["right"]), vectors)
        return vectors + ops.matmul(local["left"], products)

    def write(self, local, shared, left, right):
        kept = {
            name: ops.concatenate([local[name][:, new.shape[1] :], new], -1)
            for name, new in (("left", left), ("right", right))
        }
        return kept, shared


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

"""External memories of NTM-BFGS, and what all that has a state there has."""

from keras import ops

# The largest number of coordinates of a full memory: 256 MB in float32.
MAX_FULL_SIZE = 8192


class SharedState:
    """Base of what keeps a state for coordinates and one that they share."""

    def initial_local(self, count, dtype):
        """Returns the state that belongs to some coordinates.

        Args:
            count: Integer or scalar integer tensor, some of the coordinates.
            dtype: String.

        Returns:
            Dict of tensors `[count, ...]`. Defaults to none.
        """
        return {}

    def initial_shared(self, count, dtype):
        """Returns the state that all coordinates share.

        Args:
            count: Integer or scalar integer tensor, all coordinates.
            dtype: String.

        Returns:
            Dict of tensors. Defaults to none.

        Raises:
            ValueError: If a memory would be too large.
        """
        return {}


class FullMemory(SharedState):
    """The memory as a matrix `M`, `[n, n]`, which starts as the identity.

    Reading multiplies `M` by a vector; writing adds an outer product to it.
    """

    def initial_shared(self, count, dtype):
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


class LowRankMemory(SharedState):
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

    def read(self, local, shared, vectors):
        products = ops.matmul(ops.transpose(local["right"]), vectors)
        return vectors + ops.matmul(local["left"], products)

    def write(self, local, shared, left, right):
        kept = {
            name: ops.concatenate([local[name][:, new.shape[1] :], new], -1)
            for name, new in (("left", left), ("right", right))
        }
        return kept, shared

"""Compiles a function of TensorFlow for a TPU, where there is none.

TensorFlow lowers the function to HLO, as for any device of XLA. The compiler of
the package `libtpu`, which needs no TPU, makes the program of one chip of it.
JAX calls it, in a process of its own: two XLAs in one process are one too many.
"""

import dataclasses
import json
import os
import pathlib
import resource
import subprocess
import sys
import tempfile

TOPOLOGY = "v5e:2x2"


# No chip is taken, so others may have it; and no server is asked for one.
_ENVIRONMENT = {"ALLOW_MULTIPLE_LIBTPU_LOAD": "1", "TPU_SKIP_MDS_QUERY": "1"}


@dataclasses.dataclass(frozen=True)
class Program:
    """What the compiler says of a function's program for a chip.

    Attributes:
        instructions: Integer, of the HLO that it is compiled from.
        seconds: Float, processor time of the compiler.
        code: Integer, bytes of the program.
        temporaries: Integer, bytes, beside arguments and results.
        arguments: Integer, bytes, the variables among them.
    """

    instructions: int
    seconds: float
    code: int
    temporaries: int
    arguments: int

    def __str__(self):
        return (
            f"{self.instructions:>6,} HLO {self.seconds:>6.1f} s"
            f" {self.code / 2**20:>6.2f} MB code"
            f" {self.temporaries / 2**20:>7.2f} MB temporaries"
            f" {self.arguments / 2**20:>7.2f} MB arguments"
        )


def compile_for_tpu(function, *arguments):
    """Compiles a function for one chip.

    Args:
        function: A `tf.function` with `jit_compile=True`, whose variables
            exist.
        *arguments: Its arguments, of the shapes to compile for.

    Returns:
        A `Program`.

    Raises:
        ValueError: If TensorFlow cannot lower an operation, which the message
            names: a call of the host, for instance.
        RuntimeError: If the compiler cannot.
    """
    lowered = function.experimental_get_compiler_ir(*arguments)
    module = _portable(lowered(stage="hlo_serialized"))
    with tempfile.TemporaryDirectory() as directory:
        path = pathlib.Path(directory, "module")
        path.write_bytes(module.SerializeToString())
        process = subprocess.run(
            [sys.executable, "-m", "tests.tpu_compiler", path],
            check=False,
            env=os.environ | _ENVIRONMENT,
            capture_output=True,
            text=True,
        )
    if process.returncode:
        raise RuntimeError(f"libtpu cannot compile it: {process.stderr}")
    count = sum(len(part.instructions) for part in module.computations)
    return Program(count, **json.loads(process.stdout.splitlines()[-1]))


def _portable(serialized):
    """HLO that another version of XLA can read."""
    from tensorflow.compiler.xla.service import hlo_pb2

    module = hlo_pb2.HloModuleProto.FromString(serialized)
    for computation in module.computations:
        for instruction in computation.instructions:
            # StableHLO has no copies. To the same shape, this is one.
            if instruction.opcode == "copy":
                instruction.opcode = "reshape"
    return module


def _compile(path):
    """The figures of a serialized HLO module that is compiled for a chip."""
    # There is no public way to compile what was not written in JAX.
    from jax._src.compiler import get_compile_options
    from jax._src.interpreters.mlir import make_ir_context
    from jax._src.lib import _jax
    from jax.experimental import topologies
    from jax.extend.mlir import ir

    (device, *_) = topologies.get_topology_desc(TOPOLOGY, "tpu").devices
    begin = resource.getrusage(resource.RUSAGE_SELF).ru_utime
    with make_ir_context():
        module = _jax.mlir.hlo_to_stablehlo(pathlib.Path(path).read_bytes())
        executable = device.client.compile(
            ir.Module.parse(module),
            executable_devices=_jax.DeviceList((device,)),
            compile_options=get_compile_options(1, 1),
        )
    sizes = executable.get_compiled_memory_stats()
    return {
        "seconds": resource.getrusage(resource.RUSAGE_SELF).ru_utime - begin,
        "code": sizes.generated_code_size_in_bytes,
        "temporaries": sizes.temp_size_in_bytes,
        "arguments": sizes.argument_size_in_bytes,
    }


if __name__ == "__main__":
    print(json.dumps(_compile(*sys.argv[1:])))

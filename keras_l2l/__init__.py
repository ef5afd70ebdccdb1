"""Learned optimizers for Keras.

```python
import keras_l2l

model.compile(optimizer=keras_l2l.L2LOptimizer(), loss=...)
```
"""

import importlib
import pathlib
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from keras_l2l import presets, rules, tasks
    from keras_l2l.meta_training import MetaTrainer
    from keras_l2l.optimizers import L2LOptimizer
    from keras_l2l.rules import load_rule

__all__ = [
    "L2LOptimizer",
    "MetaTrainer",
    "load_rule",
    "presets",
    "rules",
    "tasks",
]

__version__ = "0.2.0"


# Where the public names are that are imported at their first use.
_MODULES = {
    "L2LOptimizer": "keras_l2l.optimizers",
    "MetaTrainer": "keras_l2l.meta_training",
    "load_rule": "keras_l2l.rules",
}


def __getattr__(name: str) -> Any:
    """Imports a public name at its first use."""
    if name in _MODULES:
        return getattr(importlib.import_module(_MODULES[name]), name)
    if name in __all__:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _is_command_line() -> bool:
    """Whether the process is `keras-l2l` or `python -m keras_l2l.cli`.

    It must answer `--help` and shell completion without TensorFlow, whose
    import takes seconds.
    """
    program = sys.argv[0] if getattr(sys, "argv", None) else ""
    if program == "-m":
        return "keras_l2l.cli" in sys.orig_argv
    return pathlib.PurePath(program).stem == "keras-l2l"


if not _is_command_line():
    # A `.keras` file is loaded by the names that this registers.
    importlib.import_module("keras_l2l.optimizers")

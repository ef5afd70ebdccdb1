"""The application: the group of all commands."""

import click

import keras_l2l
from keras_l2l.cli.evaluating import benchmark, compare, inspect
from keras_l2l.cli.learning import meta_train, recipes
from keras_l2l.cli.showing import presets, reproduce


@click.group(
    commands=[
        benchmark,
        compare,
        inspect,
        meta_train,
        presets,
        recipes,
        reproduce,
    ],
    no_args_is_help=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="""\b
Completion in bash (or zsh, fish):
  eval "$(_KERAS_L2L_COMPLETE=bash_source keras-l2l)"
TensorFlow's log lines:
  TF_CPP_MIN_LOG_LEVEL=0 keras-l2l COMMAND
""",
)
@click.version_option(
    keras_l2l.__version__, "--version", message="keras-l2l %(version)s"
)
def application() -> None:
    """Learned optimizers for Keras."""

"""What the command line accepts."""

import argparse
import contextlib
import difflib

NETWORK_OPTIONS = ("units", "depth", "activation", "batch_size")

_TASKS = ("digits", "mnist", "quadratic")


class CommandError(Exception):
    """What the user can put right: reported in one line."""


class _Parser(argparse.ArgumentParser):
    def error(self, message):
        raise CommandError(f"{message} (see `{self.prog} --help`)")


def make_parser():
    """The parser of `keras-l2l`.

    Returns:
        An `argparse.ArgumentParser` that raises `CommandError`.
    """
    parser = _Parser(
        prog="keras-l2l",
        description="Learned optimizers for Keras.",
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(
        title="commands", metavar="COMMAND", required=True
    )
    _add_compare(commands)
    _add_benchmark(commands)
    _add_meta_train(commands)
    _add_reproduce(commands)
    _add_presets(commands)
    _add_inspect(commands)
    return parser


def _add_command(commands, name, text, seed="no effect here"):
    parser = commands.add_parser(
        name, help=text, description=text, allow_abbrev=False
    )
    parser.set_defaults(command=name)
    parser.add_argument(
        "--seed", type=_natural, default=0, metavar="N", help=seed
    )
    parser.add_argument(
        "--json",
        action="store_true",
        help="print JSON, and nothing else, on standard output",
    )
    return parser


def _add_rule(parser):
    # The name of `presets.DEFAULT`, which is not imported for `--help`.
    parser.add_argument(
        "--rule",
        default="general",
        metavar="NAME_OR_PATH",
        help="preset or directory of an exported rule (default general)",
    )


def _add_seeds(parser, seeds, sweep_seeds):
    _add_count(
        parser, "--seeds", seeds, f"runs of each optimizer (default {seeds})"
    )
    _add_count(
        parser,
        "--sweep-seeds",
        sweep_seeds,
        f"runs for each learning rate (default {sweep_seeds})",
    )


def _add_count(parser, option, default, text):
    parser.add_argument(
        option, type=_positive, default=default, metavar="N", help=text
    )


def _add_compare(commands):
    parser = _add_command(
        commands,
        "compare",
        "Compare a learned rule with SGD, NAG, RMSprop and Adam, whose "
        "learning rates are tuned first.",
        seed="seed of all runs (default 0)",
    )
    _add_rule(parser)
    parser.add_argument(
        "--task",
        type=_task_name,
        default="digits",
        metavar="TASK",
        help=f"one of {', '.join(_TASKS)} (default digits)",
    )
    network = parser.add_argument_group("network of digits and mnist")
    network.add_argument("--units", type=_positive, metavar="N")
    network.add_argument("--depth", type=_positive, metavar="N")
    network.add_argument("--activation", metavar="NAME")
    network.add_argument("--batch-size", type=_positive, metavar="N")
    _add_count(parser, "--steps", 100, "updates in a run (default 100)")
    _add_seeds(parser, seeds=10, sweep_seeds=5)
    _add_count(
        parser,
        "--test-every",
        None,
        "test after each N steps (default: the last)",
    )
    parser.add_argument(
        "--output",
        default="l2l_compare",
        metavar="DIR",
        help="where plot and figures are written (default l2l_compare)",
    )


def _add_benchmark(commands):
    parser = _add_command(
        commands,
        "benchmark",
        "Compare a learned rule with tuned and untuned optimizers on unseen "
        "tasks at real size. Takes hours; a benchmark that was stopped goes "
        "on when it is started again.",
        seed="seed of all runs (default 0)",
    )
    _add_rule(parser)
    for option, text in (
        ("--tasks", "some of the tasks, by name (default: all)"),
        ("--optimizers", "some of the optimizers, by name (default: all)"),
    ):
        parser.add_argument(option, nargs="+", metavar="NAME", help=text)
    _add_seeds(parser, seeds=5, sweep_seeds=2)
    parser.add_argument(
        "--output",
        default="l2l_benchmark",
        metavar="DIR",
        help="where runs and report are kept (default l2l_benchmark)",
    )


def _add_meta_train(commands):
    parser = _add_command(
        commands,
        "meta-train",
        "Meta-train a rule by a recipe and export it. A run that was stopped "
        "goes on when it is started again.",
        seed="seed of rule and episodes (default: that of the recipe)",
    )
    parser.set_defaults(seed=None)
    parser.add_argument("recipe", metavar="RECIPE")
    parser.add_argument("--output", metavar="DIR", help="default: runs/RECIPE")
    parser.add_argument("--epochs", type=_positive, metavar="N")
    parser.add_argument("--steps-per-epoch", type=_positive, metavar="N")
    parser.add_argument(
        "--verbose",
        action="store_true",
        help="show a progress bar in place of a line an epoch",
    )


def _add_reproduce(commands):
    parser = _add_command(
        commands,
        "reproduce",
        "Run an experiment of the paper: its tables and figures.",
        seed="seed of all runs (default: that of the documentation)",
    )
    parser.set_defaults(seed=None)
    parser.add_argument(
        "experiment",
        metavar="NAME",
        help="an experiment; an unknown one lists them all",
    )
    parser.add_argument(
        "--full",
        action="store_true",
        help="all of it, as in the documentation (default: only enough of it "
        "to see what it does)",
    )
    parser.add_argument(
        "--output", metavar="DIR", help="default: runs/paper/NAME"
    )


def _add_presets(commands):
    _add_command(commands, "presets", "List the rules that are shipped.")


def _add_inspect(commands):
    parser = _add_command(
        commands,
        "inspect",
        "Show what a rule is and what it costs. Runs no code of its author.",
        seed="seed of the gradients of the timing (default 0)",
    )
    parser.add_argument("rule", metavar="NAME_OR_PATH")


def _task_name(text):
    if text in _TASKS:
        return text
    close = difflib.get_close_matches(text, _TASKS, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    raise argparse.ArgumentTypeError(
        f"expected one of {', '.join(_TASKS)}, received {text!r}{hint}"
    )


def _positive(text):
    return _integer(text, 1)


def _natural(text):
    return _integer(text, 0)


def _integer(text, least):
    with contextlib.suppress(ValueError):
        if int(text) >= least:
            return int(text)
    raise argparse.ArgumentTypeError(
        f"expected an integer of at least {least}, received {text!r}"
    )

"""Mutated files: each ends in a clear error or a sound rule, within bounds.

A failure names its case, which its number alone determines.
"""

import base64
import contextlib
import copy
import json
import pathlib
import re
import shutil
import time
import zlib

import keras
import numpy as np
import pytest

from keras_l2l import load_rule, meta_training, rules, tasks
from keras_l2l.optimizers import rule_config
from keras_l2l.serialization import RuleFormatError, manifest
from keras_l2l.serialization.digest import digest, digest_of

SECONDS = 2.0  # of CPU, for each case
MEGABYTES = 200
CASES_IN_A_ROW = 50  # between two looks at the memory

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "rules"
RULES = ["CoordinatewiseLSTM", "RNNprop", "NTMBFGS", "LearnedMuon-2", "Grouped"]
WITHOUT_EFFECT = ("name", "trainable", "seed")


def nested(depth):
    value = {"class_name": "Zeros"}
    for _ in range(depth):
        value = {"config": value, "class_name": "Zeros"}
    return value


def named(class_name, **config):
    return {
        "module": "keras.initializers",
        "class_name": class_name,
        "config": config,
        "registered_name": None,
    }


VALUES = [
    *(None, True, False, 0, 1, 2, -1, 7, 20, 10_000, 100_000, 10**8, 10**18),
    *(2**63, 10**400, 0.0, 0.5, 2.0, -3.0, 1e-30, 1e30),
    *("", "x", "a/b", "\0", "é" * 1000, "zeros", "float64", "bfloat16", "raw"),
    *("keras_l2l>Adam", "keras_l2l>RNNprop", "os>system", "__lambda__"),
    *([], {}, [1, 2], [[]], {"a": 1}, [10**9, 10**9], [0] * 1000),
    *(nested(20), nested(200), nested(400)),
    *(named("Orthogonal"), named("Constant", value=[1.0] * 1000)),
    named("RandomNormal", stddev="x", seed=named("SeedGenerator")),
]


def nodes(value, path=()):
    """The paths of all parts of a JSON value, but its root."""
    items = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    for key, item in items:
        yield (*path, key)
        yield from nodes(item, (*path, key))


def choose(generator, values):
    return values[generator.integers(len(values))]


def mutate(generator, document):
    """Replaces, removes, scales or moves one part of a JSON document."""
    paths = list(nodes(document))
    if not paths:
        return
    *parents, key = choose(generator, paths)
    part = document
    for parent in parents:
        part = part[parent]
    kind = generator.integers(5)
    if kind == 0:
        del part[key]
    elif kind == 1 and type(part[key]) in (int, float):
        part[key] = part[key] * choose(generator, [2, 1000, 0.5, -1])
    elif kind == 2:
        part[key] = copy.deepcopy(value_at(document, choose(generator, paths)))
    else:
        part[key] = copy.deepcopy(choose(generator, VALUES))


def value_at(document, path):
    for key in path:
        if not isinstance(document, dict | list):
            return document
        document = document[key] if key in [*keys(document)] else None
    return document


def keys(value):
    return value if isinstance(value, dict) else range(len(value))


def mutate_bytes(generator, content):
    """Flips, removes, repeats or inserts bytes."""
    content = bytearray(content)
    start = int(generator.integers(max(1, len(content))))
    end = start + int(generator.integers(1, 40))
    kind = generator.integers(5)
    if kind == 0:
        del content[start:]
    elif kind == 1:
        del content[start:end]
    elif kind == 2:
        content[start:start] = content[start:end]
    elif kind == 3:
        content[start:end] = generator.bytes(end - start)
    elif content:
        content[start] ^= 1 << int(generator.integers(8))
    return bytes(content)


class Refused(Exception):
    """A case ended in the documented error."""


@contextlib.contextmanager
def refusal(kind):
    """The documented error, and no other, is a `Refused`."""
    try:
        yield
    except kind as error:
        raise Refused from error


def check_readable(error):
    """Raises unless an error is one that a user can read."""
    assert type(error) in (RuleFormatError, ValueError)
    assert re.search("Received|cannot be read|is damaged", str(error))
    assert len(str(error)) < 3000


def check_sound(rule, config):
    """A rule does what its configuration says, and its updates are finite."""
    received = rule.get_config()
    for key, value in config.items():
        if key not in WITHOUT_EFFECT and isinstance(value, int | float | str):
            assert key.endswith("_initializer") or received[key] == value
    twin = rule.copy()
    assert digest(twin) == digest(rule)
    parameters = [keras.ops.ones((2, 2)), keras.ops.ones((3,))]
    state = rule.initial_state(parameters)
    updates, _ = rule([0.5 * p for p in parameters], parameters, state)
    for update in updates:
        assert np.isfinite(update).all()


@pytest.fixture(scope="module")
def shelf(tmp_path_factory):
    """Exported rules by name, with the digest that exports have by now."""
    root = tmp_path_factory.mktemp("rules")
    for name in RULES:
        shutil.copytree(GOLDEN / name, root / name)
        file = root / name / manifest.FILE
        document = json.loads(file.read_bytes())
        # Of the configuration in the file, which later versions add keys to.
        document["digest"] = digest_of(
            document["rule"]["class_name"],
            document["rule"]["config"],
            load_rule(root / name).get_weights(),
        ).hex()
        file.write_text(json.dumps(document))
    return root


class Manifests:
    """Rule exports with another manifest."""

    def __init__(self, shelf):
        self.shelf = shelf

    def run(self, generator):
        path = self.shelf / choose(generator, RULES)
        file = path / manifest.FILE
        original = file.read_bytes()
        document = json.loads(original)
        if generator.integers(2):
            del document["digest"]
        try:
            if generator.integers(4):
                for _ in range(generator.integers(1, 4)):
                    # Mostly where it matters.
                    part = choose(generator, ["rule", "rule", "variables"])
                    if not generator.integers(3):
                        part = None
                    mutate(generator, document.get(part, document))
                file.write_text(json.dumps(document))
            else:
                file.write_bytes(mutate_bytes(generator, original))
            with refusal(RuleFormatError):
                rule = load_rule(path)
            config = json.loads(file.read_bytes())["rule"]["config"]
        finally:
            file.write_bytes(original)
        check_sound(rule, config)


class Checkpoints:
    """Rule exports with other bytes in their checkpoint."""

    def __init__(self, shelf):
        self.shelf = shelf
        self.digests = {name: digest(load_rule(shelf / name)) for name in RULES}

    def run(self, generator):
        name = choose(generator, RULES)
        path = self.shelf / name
        file = choose(generator, sorted((path / "variables").iterdir()))
        original = file.read_bytes()
        try:
            file.write_bytes(mutate_bytes(generator, original))
            with refusal(RuleFormatError):
                rule = load_rule(path)
        finally:
            file.write_bytes(original)
        assert digest(rule) == self.digests[name]


class OptimizerConfigs:
    """Configs of optimizers with another rule in them."""

    def __init__(self, shelf):
        self.originals = [
            rule_config.serialize(load_rule(shelf / name)) for name in RULES
        ]

    def run(self, generator):
        document = copy.deepcopy(choose(generator, self.originals))
        if generator.integers(2):
            del document["digest"]
        if generator.integers(3):
            for _ in range(generator.integers(1, 4)):
                mutate(generator, document)
        else:
            data = base64.b64decode(document["meta_parameters"])
            if generator.integers(2):
                data = zlib.compress(
                    mutate_bytes(generator, zlib.decompress(data))
                )
            else:
                data = mutate_bytes(generator, data)
            document["meta_parameters"] = base64.b64encode(data).decode()
        with refusal(ValueError):
            rule = rule_config.deserialize(document)
        check_sound(rule, document["config"])


class Backups:
    """Backups of a meta-training with other bytes, or another document."""

    def __init__(self, directory):
        self.path = pathlib.Path(directory, "backup.npz")
        self.trainer = meta_training.MetaTrainer(
            rules.SGD(0.1), tasks.Quadratic(2), horizon=4, unroll=2
        )
        self.trainer.compile("sgd")
        self.fit()
        self.original = self.path.read_bytes()
        with np.load(self.path) as parts:
            self.parts = dict(parts)
        self.document = json.loads(self.parts["document"].tobytes())

    def fit(self):
        self.trainer.fit(
            epochs=1, steps_per_epoch=1, backup_dir=self.path.parent, verbose=0
        )

    def run(self, generator):
        if generator.integers(3):
            self.path.write_bytes(mutate_bytes(generator, self.original))
        else:
            document = copy.deepcopy(self.document)
            mutate(generator, document)
            parts = {**self.parts, "document": as_bytes(document)}
            if generator.integers(2):
                del parts["digest"]  # As in backups of earlier versions.
            np.savez(self.path, **parts)
        with refusal(ValueError):
            self.fit()


def as_bytes(document):
    return np.frombuffer(json.dumps(document).encode(), np.uint8)


@pytest.fixture(scope="module")
def cases(shelf, tmp_path_factory):
    return {
        "manifest": Manifests(shelf),
        "checkpoint": Checkpoints(shelf),
        "config": OptimizerConfigs(shelf),
        "backup": Backups(tmp_path_factory.mktemp("backup")),
    }


def memory(name):
    """Megabytes of this process, `"VmRSS"` or since a reset `"VmHWM"`."""
    status = pathlib.Path("/proc/self/status")
    if not status.exists():
        return 0.0
    text = status.read_text().split(f"{name}:")[1]
    return int(text.split()[0]) / 1024


def reset_peak_of_memory():
    file = pathlib.Path("/proc/self/clear_refs")
    if file.exists():
        file.write_text("5")


@contextlib.contextmanager
def bounded_memory():
    reset_peak_of_memory()
    before = memory("VmRSS")
    yield
    assert memory("VmHWM") - before < MEGABYTES


def run_all(case, numbers):
    """Runs cases by their numbers; returns how many were refused."""
    refused = 0
    for first in numbers[::CASES_IN_A_ROW]:
        with bounded_memory():
            for number in range(
                first, min(first + CASES_IN_A_ROW, numbers.stop)
            ):
                begin = time.process_time()
                try:
                    case.run(np.random.default_rng(number))
                except Refused as error:
                    refused += 1
                    check_readable(error.__cause__)
                except BaseException as error:
                    error.add_note(f"Case {number} of {type(case).__name__}")
                    raise
                assert time.process_time() - begin < SECONDS, number
    return refused


COUNTS = {"manifest": 220, "checkpoint": 80, "config": 150, "backup": 50}


@pytest.mark.parametrize("kind", COUNTS)
def test_mutated_files(cases, kind):
    refused = run_all(cases[kind], range(COUNTS[kind]))
    # Neither all nor none: the mutations reach what stands behind the checks.
    assert 0 < refused < COUNTS[kind]


@pytest.mark.parametrize(
    ("kind", "number"), [("config", 1407), ("backup", 1023), ("backup", 1580)]
)
def test_mutated_files_that_were_once_told_of_at_length(cases, kind, number):
    assert run_all(cases[kind], range(number, number + 1)) == 1


@pytest.mark.large
@pytest.mark.parametrize("kind", COUNTS)
def test_ten_thousand_mutated_files(cases, kind):
    run_all(cases[kind], range(1000, 1000 + 20 * COUNTS[kind]))


def test_the_bounds_are_seen():
    with pytest.raises(AssertionError), bounded_memory():
        np.ones(2**25).sum()  # 256 MB

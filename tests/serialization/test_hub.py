"""Rules on hubs: real clients, against a server on loopback."""

import importlib
import json
import re
import sys

import keras
import numpy as np
import pytest

from keras_l2l import L2LOptimizer, load_rule, presets, rules, serialization
from keras_l2l.cli import main
from keras_l2l.serialization import RuleFormatError, hub
from tests.serialization import hub_server

REPOSITORY = "ada/step"
ADDRESS = f"hf://{REPOSITORY}"
VARIATION = "owner/model/keras/default"


@pytest.fixture
def repositories():
    return hub_server.Hub()


@pytest.fixture
def client(repositories, tmp_path, monkeypatch):
    """`huggingface_hub`, with the server in place of Hugging Face's."""
    client = pytest.importorskip("huggingface_hub")
    with hub_server.serve(repositories) as url:
        hub_server.become_hugging_face(url, tmp_path / "hf", monkeypatch)
        yield client


@pytest.fixture
def kaggle(repositories, tmp_path, monkeypatch):
    """`kagglehub`, with the server in place of Kaggle's."""
    client = pytest.importorskip("kagglehub")
    environment = importlib.import_module("kagglesdk.kaggle_env")
    with hub_server.serve(repositories) as url:
        monkeypatch.setenv("KAGGLE_API_ENVIRONMENT", "LOCALHOST")
        monkeypatch.setenv("KAGGLEHUB_CACHE", str(tmp_path / "kaggle"))
        monkeypatch.setitem(
            environment._env_to_endpoint, environment.KaggleEnv.LOCAL, url
        )
        yield client


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A function from a learning rate to the files of an exported rule."""

    def export(learning_rate):
        path = tmp_path_factory.mktemp("exported") / "sgd"
        rules.SGD(learning_rate).export(path)
        return hub_server.files_of(path)

    return export


def rate(rule):
    return float(rule.learning_rate)


def test_a_rule_is_pushed_and_loaded(client, repositories):
    address = rules.SGD(0.25).push(ADDRESS, metadata={"description": "A step."})
    assert re.fullmatch(rf"{ADDRESS}@[0-9a-f]{{40}}", address)
    assert rate(load_rule(address)) == 0.25
    assert rate(load_rule(ADDRESS)) == 0.25
    assert sum("/commit/" in line for line in repositories.requests) == 1


def test_a_pinned_rule_stays_as_it_was(client, repositories, files):
    first = presets.pin(
        f"{ADDRESS}@{repositories.commit(REPOSITORY, files(1))}"
    )
    second = repositories.commit(REPOSITORY, files(2))
    assert rate(load_rule(first)) == 1.0
    assert rate(load_rule(ADDRESS)) == 2.0
    assert presets.pin(ADDRESS) == f"{ADDRESS}@{second}"


def test_all_files_are_of_one_commit(client, repositories, files, monkeypatch):
    """A push in the midst of a download changes nothing of it."""
    repositories.commit(REPOSITORY, files(1))
    download = client.hf_hub_download

    def then_push(repository, file, **options):
        found = download(repository, file, **options)
        if file == hub.FILES[0] and not options.get("dry_run"):
            repositories.commit(REPOSITORY, files(2))
        return found

    monkeypatch.setattr(client, "hf_hub_download", then_push)
    assert rate(load_rule(ADDRESS)) == 1.0


def test_what_is_cached_needs_no_server(client, repositories, files):
    commit = repositories.commit(REPOSITORY, files(1))
    assert rate(load_rule(ADDRESS)) == 1.0
    repositories.requests.clear()
    assert rate(load_rule(f"{ADDRESS}@{commit}")) == 1.0
    assert not repositories.requests


def test_offline(client, repositories, files, monkeypatch):
    repositories.commit(REPOSITORY, files(1))
    load_rule(ADDRESS)
    second = repositories.commit(REPOSITORY, files(2))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert rate(load_rule(ADDRESS)) == 1.0  # the newest that was seen
    for address in (f"{ADDRESS}@{second}", "hf://ada/other"):
        with pytest.raises(ConnectionError, match="not in the cache") as error:
            load_rule(address)
        assert address in str(error.value)


def test_only_the_files_of_a_rule_are_downloaded(client, repositories, files):
    """Neither the graph, which is a program, nor anything beside it."""
    repositories.commit(REPOSITORY, {**files(1), "evil.py": b"boom"})
    path = hub.download(ADDRESS).path
    assert set(hub_server.files_of(path)) == set(hub.FILES)
    assert not any(
        name in line
        for line in repositories.requests
        for name in ("saved_model.pb", "evil.py")
    )


def test_a_file_that_is_too_large_is_not_downloaded(
    client, repositories, files
):
    repositories.commit(REPOSITORY, files(1))
    repositories.sizes[hub.ARRAYS] = 2**40
    with pytest.raises(RuleFormatError, match=f"{hub.ARRAYS} of {2**40}"):
        load_rule(ADDRESS)
    assert not any(
        line.startswith("GET") and hub.ARRAYS in line
        for line in repositories.requests
    )


def test_a_rule_from_a_hub_is_checked_like_any_other(
    client, repositories, files
):
    changed = files(1)
    manifest = json.loads(changed["manifest.json"])
    manifest["rule"]["class_name"] = "keras_l2l>Evil"
    changed["manifest.json"] = json.dumps(manifest).encode()
    repositories.commit(REPOSITORY, changed)
    with pytest.raises(RuleFormatError, match="the rule class"):
        load_rule(ADDRESS)


@pytest.mark.parametrize(
    ("address", "kind", "message"),
    [
        ("hf://ada", ValueError, "must be 'hf://USER/NAME'"),
        ("kaggle://owner/model", ValueError, "kaggle://OWNER/MODEL"),
        ("hf://ada/nothing", ValueError, "does not exist"),
        (f"{ADDRESS}@v9", ValueError, "no such revision"),
        (f"{ADDRESS}@{'0' * 40}", ValueError, "no such revision"),
        ("hf://ada/empty", RuleFormatError, r"the files \['manifest.json'"),
    ],
)
def test_what_is_no_rule(client, repositories, files, address, kind, message):
    repositories.commit(REPOSITORY, files(1))
    repositories.commit("ada/empty", {"README.md": b"Nothing here."})
    with pytest.raises(kind, match=message) as error:
        load_rule(address)
    assert address in str(error.value)


def test_a_saved_model_has_the_meta_parameters_and_the_commit(
    client, repositories, files, tmp_path, monkeypatch
):
    commit = repositories.commit(REPOSITORY, files(0.5))
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile(L2LOptimizer(ADDRESS), loss="mse")
    model.fit(np.ones((4, 2)), np.ones((4, 1)), verbose=0)
    model.save(tmp_path / "model.keras")
    # The repository goes on; the model does not, and needs no connection.
    repositories.commit(REPOSITORY, files(2))
    repositories.requests.clear()
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert rate(loaded.optimizer.rule) == 0.5
    assert not repositories.requests
    config = loaded.optimizer.get_config()
    assert config["rule"]["source"] == f"{ADDRESS}@{commit}"
    # Of other meta-parameters it says nothing.
    loaded.optimizer.rule.set_weights([np.float32(0.125)])
    assert "source" not in loaded.optimizer.get_config()["rule"]


def test_a_file_makes_nobody_download(client, repositories, files):
    repositories.commit(REPOSITORY, files(1))
    with pytest.raises(ValueError, match="Nothing is downloaded"):
        L2LOptimizer.from_config({"rule": ADDRESS})
    config = L2LOptimizer(rules.SGD(1.0)).get_config()
    config["rule"]["source"] = ["hf://", 1]
    assert "source" not in L2LOptimizer.from_config(config).get_config()["rule"]
    assert not repositories.requests


def test_push_goes_to_hugging_face_alone(repositories):
    rule = rules.SGD(1.0)
    with pytest.raises(ValueError, match="model_upload"):
        rule.push(f"kaggle://{VARIATION}")
    with pytest.raises(ValueError, match="must be 'hf://USER/NAME'"):
        rule.push("ada/step")


def test_a_directory_is_uploaded_as_it_is(client, repositories, tmp_path):
    path = tmp_path / "sgd"
    rules.SGD(0.5).export(path, metadata={"scores": {"loss": 0.25}})
    (path / "secrets.txt").touch()
    address = serialization.upload(path, ADDRESS)
    manifest = serialization.read_manifest(hub.download(address).path)
    assert manifest["scores"] == {"loss": 0.25}
    assert rate(load_rule(address)) == 0.5
    (tree,) = repositories.repositories[REPOSITORY].values()
    assert {*hub.FILES, "saved_model.pb"} <= set(tree)
    assert "secrets.txt" not in tree
    with pytest.raises(RuleFormatError, match=r"a file manifest\.json"):
        serialization.upload(tmp_path, ADDRESS)


def test_a_failed_push(client, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ConnectionError, match=ADDRESS):
        rules.SGD(1.0).push(ADDRESS)


def test_a_rule_from_kaggle(kaggle, repositories, files):
    repositories.versions = [files(1), files(2)]
    address = f"kaggle://{VARIATION}"
    assert rate(load_rule(address)) == 2.0
    assert presets.pin(address) == f"{address}/2"
    assert rate(load_rule(f"{address}/1")) == 1.0
    # What is cached needs no server.
    repositories.requests.clear()
    assert rate(load_rule(f"{address}/1")) == 1.0
    assert not repositories.requests
    with pytest.raises(RuleFormatError, match="a repository without"):
        load_rule(f"{address}/3")


def test_kaggle_out_of_reach(kaggle, monkeypatch):
    environment = importlib.import_module("kagglesdk.kaggle_env")
    monkeypatch.setitem(
        environment._env_to_endpoint,
        environment.KaggleEnv.LOCAL,
        "http://127.0.0.1:9",  # where nothing answers
    )
    with pytest.raises(ConnectionError, match="not in the cache"):
        load_rule(f"kaggle://{VARIATION}")


@pytest.mark.parametrize(
    ("address", "package"),
    [(ADDRESS, "huggingface_hub"), (f"kaggle://{VARIATION}", "kagglehub")],
)
def test_without_the_client(address, package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=r"keras-l2l\[hub\]"):
        load_rule(address)


def test_the_command_line_takes_addresses(
    client, repositories, files, tmp_path, capsys, monkeypatch
):
    repositories.commit(REPOSITORY, files(0.5))
    assert main(["inspect", ADDRESS]) == 0
    assert "keras_l2l>SGD" in capsys.readouterr().out
    assert main(["inspect", f"{ADDRESS}@v9"]) == 2
    assert "no such revision" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert main(["inspect", ADDRESS]) == 2
    assert "keras-l2l[hub]" in capsys.readouterr().err

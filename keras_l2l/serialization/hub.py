"""Exported rules on Hugging Face and on Kaggle, through their own clients.

An address names a repository there, and perhaps a revision of it:

- `hf://USER/NAME` or `hf://USER/NAME@REVISION`: a branch, a tag or a commit;
- `kaggle://OWNER/MODEL/FRAMEWORK/VARIATION` or `….../VERSION`.

The author of a repository is a stranger: only the files that make a rule are
downloaded, which are read as data. The graph of its SavedModel, which is a
program, is none of them. The clients keep what was downloaded in their caches.
"""

import contextlib
import importlib
import os
import pathlib
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from keras_l2l import checks
from keras_l2l.serialization import manifest
from keras_l2l.serialization.errors import format_error
from keras_l2l.serialization.saved_model import ARRAYS, ENTRIES

FILES = (
    manifest.FILE,
    ARRAYS,
    "variables/variables.index",
    "variables/variables.data-00000-of-00001",
)
# The shipped rules have files of at most 100 kilobytes.
SIZE_LIMIT = 2**28  # bytes, of a file

_SCHEMES = ("hf://", "kaggle://")
_HUGGING_FACE = re.compile(r"hf://([\w.-]+/[\w.-]+)(?:@([\w./-]+))?")
_KAGGLE = re.compile(r"kaggle://([\w.-]+(?:/[\w.-]+){3})(?:/(\d+))?")
_EXPECTED = (
    "'hf://USER/NAME', 'hf://USER/NAME@REVISION' or "
    "'kaggle://OWNER/MODEL/FRAMEWORK/VARIATION[/VERSION]'"
)


class Download(NamedTuple):
    """A rule that was downloaded.

    Attributes:
        path: `pathlib.Path` of the directory, in the cache of the client.
        address: String, the address with the revision that was downloaded:
            of Hugging Face the commit, of Kaggle the version.
    """

    path: pathlib.Path
    address: str


def is_address(name: Any) -> bool:
    """Whether this is meant as an address, be it well-formed or not.

    Args:
        name: Anything.

    Returns:
        A boolean.
    """
    return isinstance(name, str) and name.startswith(_SCHEMES)


def download(address: str) -> Download:
    """Downloads a rule, unless the cache of the client has this revision.

    Without a revision it is the newest one; without a connection, the one of
    Hugging Face that was the newest when the cache was filled.

    Args:
        address: String, see `hub`.

    Returns:
        A `Download`.

    Raises:
        ValueError: If there is no such repository or revision.
        RuleFormatError: If there is no rule in it, or one that is too large.
        ConnectionError: If it cannot be reached, and is not in the cache.
        ImportError: If the client is not installed.
    """
    if match := _HUGGING_FACE.fullmatch(address):
        return _from_hugging_face(address, *match.groups())
    if match := _KAGGLE.fullmatch(address):
        return _from_kaggle(address, *match.groups())
    raise _no_address(address)


def upload(
    directory: str | os.PathLike[str],
    address: str,
    private: bool | None = None,
) -> str:
    """Uploads an exported rule to Hugging Face as it is, in one commit.

    So that its manifest goes on to say how it was made; `rule.push` exports a
    rule anew. Needs the extra `keras-l2l[hub]`.

    Args:
        directory: String or path of the exported rule. What else it holds is
            not uploaded.
        address: String, `hf://USER/NAME`, whose repository is created if
            there is none; or `hf://USER/NAME@BRANCH`.
        private: Boolean. Whether a repository that is created is private.
            Defaults to `None`, as the account has it.

    Returns:
        String, the address with the new commit.

    Raises:
        ValueError: If the address is none of Hugging Face, or if there is no
            such repository or branch for this user.
        FileNotFoundError: If the directory does not exist.
        RuleFormatError: If it is no exported rule.
        ConnectionError: If the upload failed.
        ImportError: If the client is not installed.

    Example:

    ```python
    address = upload("runs/mine/mine", "hf://user/name")
    ```
    """
    match = _HUGGING_FACE.fullmatch(address)
    if match is None:
        if _KAGGLE.fullmatch(address):
            raise ValueError(
                "Argument `address` must be on Hugging Face. Received: "
                f"{address!r}. On Kaggle, upload the directory that "
                "`rule.export(path)` wrote by `kagglehub.model_upload`"
            )
        raise _no_address(address)
    repository, branch = match.groups()
    client = _client("huggingface_hub")
    manifest.read_manifest(directory)
    files = [
        path
        for path in pathlib.Path(directory).rglob("*")
        if path.is_file() and path.relative_to(directory).parts[0] in ENTRIES
    ]
    with _errors_of_hugging_face(address):
        api = client.HfApi()
        api.create_repo(repository, private=private, exist_ok=True)
        commit = api.create_commit(
            repository,
            operations=[
                client.CommitOperationAdd(
                    path.relative_to(directory).as_posix(), path
                )
                for path in sorted(files)
            ],
            commit_message="Upload a learned optimizer with keras_l2l",
            revision=branch,
        )
    return f"hf://{repository}@{commit.oid}"


def _from_hugging_face(address, repository, revision):
    client = _client("huggingface_hub")
    for file in FILES:
        with _errors_of_hugging_face(address):
            # A look that downloads nothing. Without a connection it finds
            # what the cache has.
            found = client.hf_hub_download(
                repository, file, revision=revision, dry_run=True
            )
        _check_size(address, file, found.file_size)
        with _errors_of_hugging_face(address):
            path = client.hf_hub_download(repository, file, revision=revision)
        # The other files are of the same commit, whatever is pushed meanwhile.
        revision = found.commit_hash
    directory = pathlib.Path(path).parents[file.count("/")]
    return Download(directory, f"hf://{repository}@{revision}")


def _from_kaggle(address, variation, version):
    client = _client("kagglehub")
    for file in FILES:
        handle = variation if version is None else f"{variation}/{version}"
        with _errors_of_kaggle(address):
            path = pathlib.Path(client.model_download(handle, path=file))
        if version is None:
            version = path.parent.name  # of the manifest, which is the first
        _check_size(address, file, path.stat().st_size)
    directory = path.parents[file.count("/")]
    return Download(directory, f"kaggle://{variation}/{version}")


def _check_size(address, file, size):
    """Raises if a file is larger than any of a rule. `None` is not known."""
    if size is not None and size > SIZE_LIMIT:
        raise format_error(
            f"files of at most {SIZE_LIMIT} bytes in {address!r}",
            f"{file} of {size} bytes",
        )


def _client(name):
    return checks.import_extra(name, "hub", "The address of a rule needs")


@contextlib.contextmanager
def _errors_of_hugging_face(address: str) -> Iterator[None]:
    """Turns errors of the client into those that `download` documents."""
    errors = importlib.import_module("huggingface_hub.errors")
    try:
        yield
    except errors.RevisionNotFoundError as error:
        raise ValueError(
            "The address of a rule must name a branch, a tag or a commit of "
            f"its repository. Received: {address!r}, which has no such "
            "revision"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise ValueError(
            f"The address of a rule must be {_EXPECTED}. Received: "
            f"{address!r}, which does not exist, or which this user may not "
            "see: `hf auth login`"
        ) from error
    except errors.LocalEntryNotFoundError as error:
        raise _not_reached(address, error) from error
    except errors.EntryNotFoundError as error:
        raise _no_rule(address) from error
    except (errors.HTTPError, ConnectionError) as error:
        raise _not_reached(address, error) from error


@contextlib.contextmanager
def _errors_of_kaggle(address: str) -> Iterator[None]:
    """Turns errors of the client into those that `download` documents."""
    try:
        yield
    except OSError as error:  # What the client has from `requests` is one.
        response = getattr(error, "response", None)
        status = getattr(response, "status_code", None)
        if status == 404:
            raise _no_rule(address) from error
        if status in (401, 403):
            raise ValueError(
                f"The address of a rule must be {_EXPECTED}. Received: "
                f"{address!r}, which does not exist, or which this user may "
                "not see: `kagglehub.login()`"
            ) from error
        raise _not_reached(address, error) from error


def _no_address(address):
    return ValueError(
        f"The address of a rule must be {_EXPECTED}. Received: {address!r}"
    )


def _no_rule(address):
    return format_error(
        f"the files {list(FILES)} in {address!r}",
        "a repository without one of them",
        "`rule.push` and `rule.export` write them.",
    )


def _not_reached(address, error):
    first_line = str(error).strip().partition("\n")[0]
    return ConnectionError(
        f"The rule {address!r} cannot be reached, and this revision is not in "
        f"the cache of the client. Look at the connection. ({first_line})"
    )

"""Uploads of exports to a hub of Hugging Face: what is wrong is said before work starts, and a lost upload resumes.

huggingface_hub keeps the token and knows the hub's address. It sends no file that the hub has already.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from data_catalog.errors import DamagedError, InputError, PipelineError, SettingsError, TransientError
from data_catalog.exports.export_folder import EDITED, export_lock, record_of
from data_catalog.storage.integrity import file_problem

if TYPE_CHECKING:
    from huggingface_hub import HfApi

DATASET, MODEL = "dataset", "model"
_PART = r"(?=[^/]{1,96}(?:/|\Z))[A-Za-z0-9_]+(?:[.-][A-Za-z0-9_]+)*"
_NAME = re.compile(f"{_PART}/{_PART}")  # a part has no consecutive dashes or dots, and neither at its ends
# Files of an earlier, larger export, which may contain images that were taken down since. Other files stay.
_REPLACED = {DATASET: ["data/*.parquet", "links/*.parquet", "*.tar"], MODEL: None}
_LOG_IN = "log in with `hf auth login`, or set HF_TOKEN"


@dataclass(frozen=True, slots=True, kw_only=True)
class Repository:
    """A repository of the hub that may be written to.

    Args:
        name: its name, as in somebody/captions-it.
        kind: `DATASET` or `MODEL`.
        api: client with the user's token.
    """

    name: str
    kind: str
    api: "HfApi"


def require_hub_name(name: str) -> None:
    """Refuse a name that no repository of the hub can have.

    Raises:
        SettingsError: the name is malformed.
    """
    if not _NAME.fullmatch(name) or name.endswith(".git"):
        raise SettingsError(f"a name on the hub has the form OWNER/NAME, got {name!r}")


def open_repository(name: str, kind: str, *, private: bool) -> Repository:
    """Return a repository of the hub, and create it if there is none. Call it before an export is made.

    Args:
        name: its name, as in somebody/captions-it.
        kind: `DATASET` or `MODEL`.
        private: require that only its owner sees it.

    Raises:
        SettingsError: the name is malformed, or the repository is public but `private` is required.
        InputError: there is no token, or the hub refuses it.
        TransientError: the hub does not answer.
    """
    require_hub_name(name)
    from huggingface_hub import HfApi, get_token

    token = get_token()
    if token is None:
        raise InputError(f"no token of the Hugging Face hub is stored: {_LOG_IN}")
    api = HfApi(token=token)
    with _hub_errors(name, api):
        api.create_repo(name, repo_type=kind, private=private or None, exist_ok=True)
        if private and not api.repo_info(name, repo_type=kind).private:
            raise SettingsError(f"{name} exists and is public: make it private in its settings on the hub")
    return Repository(name=name, kind=kind, api=api)


def push_export(folder: Path, repository: Repository) -> str:
    """Upload the folder of an export, and return its address. After an interruption, the next call sends the rest.

    Documents that the user edited and files that were added go along.

    Raises:
        DamagedError: a file of the export is damaged.
        BusyError: another process writes to the folder.
        InputError: the hub refuses the upload.
        TransientError: the connection was lost.
    """
    place = folder.resolve()
    with export_lock(place):
        record = record_of(place)
        assert record is not None
        for name, sha256 in record["files"].items():
            if name not in EDITED and (problem := file_problem(place / name, sha256)) is not None:
                raise DamagedError(f"{problem}. Remove {folder} and run the same command again")
        with _hub_errors(repository.name, repository.api):
            repository.api.upload_folder(
                repo_id=repository.name,
                repo_type=repository.kind,
                folder_path=place,
                commit_message="Upload an export of vernaclip",
                delete_patterns=_REPLACED[repository.kind],
            )
    prefix = "datasets/" if repository.kind == DATASET else ""
    return f"{repository.api.endpoint}/{prefix}{repository.name}"


@contextmanager
def _hub_errors(name: str, api: "HfApi") -> Iterator[None]:
    """Turn errors of huggingface_hub and of the connection into sentences without the token.

    Raises:
        InputError: the hub refuses a request.
        TransientError: the hub does not answer, or the connection was lost.
    """
    # `HTTPError` is that of the HTTP library that this release of huggingface_hub uses.
    from huggingface_hub.errors import HfHubHTTPError, HTTPError  # type: ignore[attr-defined]

    try:
        yield
    except PipelineError:
        raise
    except (HTTPError, OSError, RuntimeError, ValueError) as error:
        cause: BaseException = error
        while isinstance(cause, RuntimeError) and cause.__cause__ is not None:  # of a thread that sends a file
            cause = cause.__cause__
        if not isinstance(cause, HfHubHTTPError):
            said = str(cause).partition("\n")[0].replace(str(api.token), "TOKEN") or type(cause).__name__
            if isinstance(cause, ValueError):
                raise InputError(f"{api.endpoint} does not take {name}: {said}") from None
            raise TransientError(
                f"the connection to {api.endpoint} failed ({said}): run the same command again, which sends what is "
                "missing"
            ) from None
        raise _refusal(cause.response.status_code, cause.server_message or "", name, api) from None


def _refusal(status: int, said: str, name: str, api: "HfApi") -> PipelineError:
    """Return the error for a response with an error status."""
    said = f" ({status}: {' '.join(said.split()).replace(str(api.token), 'TOKEN')})" if said else f" ({status})"
    if status == 401:
        return InputError(f"{api.endpoint} does not accept your token{said}: {_LOG_IN}")
    if status == 403:
        return InputError(
            f"your token may not write to {name}{said}: make one with write access on {api.endpoint}/settings/tokens, "
            f"or choose an OWNER that you may write to; then {_LOG_IN}"
        )
    if status in (408, 429) or status >= 500:
        return TransientError(
            f"{api.endpoint} cannot take {name} at present{said}: run the same command again later, which sends what "
            "is missing"
        )
    return InputError(f"{api.endpoint} refuses {name}{said}")

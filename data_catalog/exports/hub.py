"""Uploads of exports to a hub of Hugging Face, which resume after a lost connection.

huggingface_hub keeps the token and knows the hub's address. It sends no file that the hub has already. A repository is
created when its export is complete.
"""

import glob
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from data_catalog.base.errors import DamagedError, InputError, PipelineError, SettingsError, TransientError
from data_catalog.catalog.manifest import EXPORT_RECORD
from data_catalog.disk.records import file_problem, read_checksummed
from data_catalog.exports.export_folder import EDITED, export_lock, record_of

if TYPE_CHECKING:
    from huggingface_hub import HfApi

DATASET, MODEL = "dataset", "model"
_LOG_IN = "log in with `hf auth login`, or set HF_TOKEN"


@dataclass(frozen=True, slots=True, kw_only=True)
class Repository:
    """A repository of the hub, which may not exist yet."""

    name: str
    kind: str
    private: bool  # it is required that only its owner sees it
    api: "HfApi"


def require_hub_name(name: str) -> None:
    """Refuse a name that no repository of the hub can have."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    with suppress(HFValidationError):
        validate_repo_id(name)
        if "/" in name:
            return
    raise SettingsError(f"a name on the hub has the form OWNER/NAME, got {name!r}")


def open_repository(name: str, kind: str, *, private: bool) -> Repository:
    """Return a repository, such as somebody/captions-it, after the hub has accepted the user's token."""
    require_hub_name(name)
    from huggingface_hub import HfApi, get_token

    repository = Repository(name=name, kind=kind, private=private, api=HfApi(token=get_token()))
    with _hub_errors(repository):
        repository.api.whoami()
    return repository


def push_export(folder: Path, repository: Repository) -> str:
    """Upload the folder of an export, and return its address. After an interruption, the next call sends the rest.

    Create the repository if there is none. Documents that the user edited and files that were added go along. Other
    files of an earlier export are deleted from the repository; files that no export wrote stay.
    """
    place, name, kind, api = folder.resolve(), repository.name, repository.kind, repository.api
    with export_lock(place):
        record = record_of(place)
        if record is None:
            raise InputError(f"{folder} was removed before its upload: run the same command again")
        for path, sha256 in record["files"].items():
            if path not in EDITED and (problem := file_problem(place / path, sha256)) is not None:
                raise DamagedError(f"{problem}. Remove {folder} and run the same command again")
        with _hub_errors(repository):
            api.create_repo(name, repo_type=kind, private=repository.private or None, exist_ok=True)
            if repository.private and not api.repo_info(name, repo_type=kind).private:
                raise SettingsError(f"{name} exists and is public: make it private in its settings on the hub")
            api.upload_folder(
                repo_id=name,
                repo_type=kind,
                folder_path=place,
                commit_message="Upload an export of vernaclip",
                delete_patterns=list(map(glob.escape, _files_of_earlier(repository))),
            )
    return f"{api.endpoint}/{'datasets/' if kind == DATASET else ''}{name}"


def _files_of_earlier(repository: Repository) -> list[str]:
    """Return the files that an earlier export wrote to the repository; they may have images that were taken down."""
    name, kind = repository.name, repository.kind
    if not repository.api.file_exists(name, EXPORT_RECORD, repo_type=kind):
        return []
    with TemporaryDirectory() as folder:
        path = repository.api.hf_hub_download(name, EXPORT_RECORD, repo_type=kind, local_dir=folder)
        with suppress(DamagedError, KeyError):  # not a record of ours
            return list(read_checksummed(Path(path), remedy="remove it")["files"])
    return []


@contextmanager
def _hub_errors(repository: Repository) -> Iterator[None]:
    """Turn errors of huggingface_hub and of the connection into sentences without the token."""
    # `HTTPError` is that of the HTTP library that this release of huggingface_hub uses.
    from huggingface_hub.errors import HfHubHTTPError, HTTPError  # type: ignore[attr-defined]
    from huggingface_hub.utils import LocalTokenNotFoundError, OfflineModeIsEnabled  # type: ignore[attr-defined]

    name, api = repository.name, repository.api
    try:
        yield
    except PipelineError:
        raise
    except (HTTPError, OSError, RuntimeError, ValueError) as error:
        cause: BaseException = error
        while not isinstance(cause, HTTPError) and cause.__cause__ is not None:  # of a thread, or of a download
            cause = cause.__cause__
        status = cause.response.status_code if isinstance(cause, HfHubHTTPError) else 0
        said = cause.server_message if isinstance(cause, HfHubHTTPError) else str(cause).partition("\n")[0]
        said = " ".join((said or type(cause).__name__).split()).replace(str(api.token or "\0"), "TOKEN")
        is_local = isinstance(cause, ValueError | LocalTokenNotFoundError | OfflineModeIsEnabled)
        is_local |= getattr(cause, "filename", None) is not None
        if is_local or (400 <= status < 500 and status not in (408, 429)):
            remedy = f": choose an OWNER that you may write to, or {_LOG_IN}" if status in (401, 403) else ""
            raise InputError(f"{name} cannot be uploaded to {api.endpoint} ({said}){remedy}") from None
        again = "run the same command again, which sends what is missing"
        raise TransientError(f"the connection to {api.endpoint} failed ({said}): {again}") from None

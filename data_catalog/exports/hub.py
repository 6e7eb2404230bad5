"""Uploads of exports to a hub of Hugging Face: what is wrong is said before work starts, and a lost upload resumes.

huggingface_hub keeps the token and knows the hub's address. It sends no file that the hub has already. A repository is
created when its export is complete.
"""

import glob
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from data_catalog.errors import DamagedError, InputError, PipelineError, SettingsError, TransientError
from data_catalog.exports.export_folder import EDITED, export_lock, record_of
from data_catalog.storage.integrity import file_problem, read_checksummed
from data_catalog.storage.manifest import EXPORT_RECORD

if TYPE_CHECKING:
    from huggingface_hub import HfApi

DATASET, MODEL = "dataset", "model"
_PART = r"(?=[^/]{1,96}(?:/|\Z))[A-Za-z0-9_]+(?:[.-][A-Za-z0-9_]+)*"
_NAME = re.compile(f"{_PART}/{_PART}")  # a part has no consecutive dashes or dots, and neither at its ends
_LOG_IN = "log in with `hf auth login`, or set HF_TOKEN"


@dataclass(frozen=True, slots=True, kw_only=True)
class Repository:
    """A repository of the hub that may be written to, or created.

    Args:
        name: its name, as in somebody/captions-it.
        kind: `DATASET` or `MODEL`.
        private: require that only its owner sees it.
        api: client with the user's token.
    """

    name: str
    kind: str
    private: bool
    api: "HfApi"


def require_hub_name(name: str) -> None:
    """Refuse a name that no repository of the hub can have.

    Raises:
        SettingsError: the name is malformed.
    """
    if not _NAME.fullmatch(name) or name.endswith(".git"):
        raise SettingsError(f"a name on the hub has the form OWNER/NAME, got {name!r}")


def open_repository(name: str, kind: str, *, private: bool) -> Repository:
    """Return a repository of the hub, which may not exist yet. Call it before an export is made.

    Args:
        name: its name, as in somebody/captions-it.
        kind: `DATASET` or `MODEL`.
        private: require that only its owner sees it.

    Raises:
        SettingsError: the name is malformed, or the repository is public but `private` is required.
        InputError: there is no token, the hub refuses it, or it may not write to the repository's owner. The hub does
            not tell all rights of fine-grained tokens: the upload may still be refused.
        TransientError: the hub does not answer.
    """
    require_hub_name(name)
    from huggingface_hub import HfApi, get_token

    token = get_token()
    if token is None:
        raise InputError(f"no token of the Hugging Face hub is stored: {_LOG_IN}")
    repository = Repository(name=name, kind=kind, private=private, api=HfApi(token=token))
    with _hub_errors(name, repository.api):
        _require_rights(repository, repository.api.whoami())
        _refuse_public(repository)
    return repository


def _require_rights(repository: Repository, user: Mapping[str, Any]) -> None:
    """Refuse a token that cannot write to the owner of a repository.

    Args:
        repository: the repository.
        user: what the hub knows of the token and its user.

    Raises:
        InputError: the token is read-only, or the owner is neither the user nor one of the user's organisations.
    """
    if user.get("auth", {}).get("accessToken", {}).get("role") == "read":
        raise _forbidden(repository.name, "it is read-only", repository.api)
    owners = [user["name"], *(group["name"] for group in user.get("orgs", ()))]
    if repository.name.partition("/")[0].lower() not in map(str.lower, owners):
        raise _forbidden(repository.name, f"it writes to {', '.join(owners)}", repository.api)


def _refuse_public(repository: Repository) -> None:
    """Refuse a repository that exists and is public, if a private one is required.

    Raises:
        SettingsError: it is public.
    """
    from huggingface_hub.errors import HfHubHTTPError

    if not repository.private:
        return
    try:
        found = repository.api.repo_info(repository.name, repo_type=repository.kind)
    except HfHubHTTPError as error:
        if error.response.status_code == 404:  # it does not exist yet
            return
        raise
    if not found.private:
        raise SettingsError(f"{repository.name} exists and is public: make it private in its settings on the hub")


def push_export(folder: Path, repository: Repository) -> str:
    """Upload the folder of an export, and return its address. After an interruption, the next call sends the rest.

    Create the repository if there is none. Documents that the user edited and files that were added go along. Other
    files of an earlier export are deleted from the repository; files that no export wrote stay.

    Raises:
        SettingsError: the repository is public but a private one is required.
        DamagedError: a file of the export is damaged.
        BusyError: another process writes to the folder.
        InputError: the export was removed, a file cannot be read, or the hub refuses the upload.
        TransientError: the connection was lost.
    """
    place = folder.resolve()
    with export_lock(place):
        record = record_of(place)
        if record is None:
            raise InputError(f"{folder} was removed before its upload: run the same command again")
        for name, sha256 in record["files"].items():
            if name not in EDITED and (problem := file_problem(place / name, sha256)) is not None:
                raise DamagedError(f"{problem}. Remove {folder} and run the same command again")
        _require_readable(place)
        with _hub_errors(repository.name, repository.api):
            repository.api.create_repo(
                repository.name, repo_type=repository.kind, private=repository.private or None, exist_ok=True
            )
            _refuse_public(repository)
            repository.api.upload_folder(
                repo_id=repository.name,
                repo_type=repository.kind,
                folder_path=place,
                commit_message="Upload an export of vernaclip",
                delete_patterns=list(map(glob.escape, _files_of_earlier(repository))),
            )
    prefix = "datasets/" if repository.kind == DATASET else ""
    return f"{repository.api.endpoint}/{prefix}{repository.name}"


def _require_readable(place: Path) -> None:
    """Refuse an export with a file that cannot be read.

    Raises:
        InputError: there is such a file; the text names it.
    """
    for path in sorted(place.rglob("*")):
        try:
            if path.is_file():
                with path.open("rb") as file:
                    file.read(1)
        except OSError as error:
            raise _unreadable(path, error) from error


def _unreadable(path: Path | str, error: OSError) -> InputError:
    return InputError(
        f"{path} cannot be read ({error.strerror}): make it readable, or move it away, and run the same command again"
    )


def _files_of_earlier(repository: Repository) -> list[str]:
    """Return the files that an earlier export wrote to the repository; they may have images that were taken down."""
    name, kind = repository.name, repository.kind
    if not repository.api.file_exists(name, EXPORT_RECORD, repo_type=kind):
        return []
    with TemporaryDirectory() as folder:
        path = repository.api.hf_hub_download(name, EXPORT_RECORD, repo_type=kind, local_dir=folder)
        try:
            return list(read_checksummed(Path(path), remedy="remove it")["files"])
        except (DamagedError, KeyError):  # not a record of ours
            return []


@contextmanager
def _hub_errors(name: str, api: "HfApi") -> Iterator[None]:
    """Turn errors of huggingface_hub, of the connection and of local files into sentences without the token.

    Raises:
        InputError: the hub refuses a request, HF_HUB_OFFLINE is set, or a local file cannot be read.
        TransientError: the hub does not answer, or the connection was lost.
    """
    # `HTTPError` is that of the HTTP library that this release of huggingface_hub uses.
    from huggingface_hub.errors import HfHubHTTPError, HTTPError  # type: ignore[attr-defined]
    from huggingface_hub.utils import LocalEntryNotFoundError, OfflineModeIsEnabled  # type: ignore[attr-defined]

    try:
        yield
    except PipelineError:
        raise
    except (HTTPError, OSError, RuntimeError, ValueError) as error:
        cause: BaseException = error
        # Errors of a thread that sends a file, and of a download.
        while isinstance(cause, (RuntimeError, LocalEntryNotFoundError)) and cause.__cause__ is not None:
            cause = cause.__cause__
        if isinstance(cause, OfflineModeIsEnabled):
            raise InputError(
                f"{name} cannot be uploaded, because HF_HUB_OFFLINE forbids it: unset it, or leave out --push-to-hub"
            ) from None
        if isinstance(cause, OSError) and cause.filename is not None:
            raise _unreadable(cause.filename, cause) from cause
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
        return _forbidden(name, said[2:-1], api)
    if status in (408, 429) or status >= 500:
        return TransientError(
            f"{api.endpoint} cannot take {name} at present{said}: run the same command again later, which sends what "
            "is missing"
        )
    return InputError(f"{api.endpoint} refuses {name}{said}")


def _forbidden(name: str, why: str, api: "HfApi") -> InputError:
    return InputError(
        f"your token may not write to {name} ({why}): make one with write access on {api.endpoint}/settings/tokens, "
        f"or choose an OWNER that you may write to; then {_LOG_IN}"
    )

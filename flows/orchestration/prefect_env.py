"""Which Prefect API this project talks to, and the environment that our Prefect processes run in.

Prefect's own order holds: environment variables, then `.env` of the current folder, then prefect.toml, pyproject.toml
and the user's profile. `vernaclip up` writes its address and auth string into `.env`, between two marks.
"""

import base64
import logging
import os
import re
import secrets
import tempfile
import urllib.parse
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from data_catalog.errors import SettingsError
from flows import PACKAGES

logger = logging.getLogger(__name__)

# In the project's folder, ignored by git: the server's database, process ids and logs.
STATE_FOLDER = ".vernaclip"
ENV_FILE = ".env"
_BEGIN, _END = "# >>> written by `vernaclip up`, removed by `vernaclip down`", "# <<< vernaclip"
_ENV_BLOCK = re.compile(rf"^{re.escape(_BEGIN)}\n.*?(?:^{re.escape(_END)}\n?|\Z)", re.MULTILINE | re.DOTALL)
PROBE_TIMEOUT_S = 3.0
HOST = "127.0.0.1"  # where servers of ours listen
LOOPBACK = (HOST, "localhost")

# Bare deployment names work in a folder that is not a checkout, too: its pyproject.toml does not switch the plugin on.
PLUGIN_ENVIRONMENT = {"PREFECT_PLUGINS_ENABLED": "true", "PREFECT_PLUGINS_ALLOW": "vernaclip"}

# How often a run says that it lives, in seconds: the shortest interval that Prefect keeps to.
HEARTBEAT_S = 30

Answer = Literal["answers", "refuses", "silent"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Api:
    """A Prefect API: its URL, ending in /api, and what opens it (a user:password pair, or a key of Prefect Cloud)."""

    url: str
    auth_string: str | None = field(default=None, repr=False)
    key: str | None = field(default=None, repr=False)

    @property
    def ui_url(self) -> str:
        """Return the URL of the server's pages."""
        return self.url.removesuffix("/api")

    @property
    def port(self) -> str:
        """Return the port of a server of ours, whose URL names one."""
        return self.ui_url.rpartition(":")[2]

    def environment(self) -> dict[str, str]:
        """Return the variables by which a Prefect process finds this API."""
        found = {"PREFECT_API_URL": self.url, "PREFECT_API_AUTH_STRING": self.auth_string, "PREFECT_API_KEY": self.key}
        return {name: value for name, value in found.items() if value is not None}

    def is_up(self) -> bool:
        """Tell if it answers us."""
        return probe(self) == "answers"


def new_auth_string() -> str:
    """Make up the user and password that a server of ours asks for."""
    return f"vernaclip:{secrets.token_urlsafe(24)}"


def server_environment(api: Api, database: Path) -> dict[str, str]:
    """Return the environment of a server of ours: closed to whoever lacks its auth string, and to foreign origins.

    Args:
        api: the address and the auth string of the server.
        database: an SQLite file that no other server uses.

    Raises:
        ValueError: the API has no auth string.
    """
    if not api.auth_string:
        raise ValueError(f"the server at {api.url} would answer everybody: it has no auth string")
    return {
        **prefect_environment(),
        **api.environment(),
        "PREFECT_SERVER_API_AUTH_STRING": api.auth_string,
        "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": api.ui_url,
        "PREFECT_SERVER_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{urllib.parse.quote(str(database))}",
        "PREFECT_UI_API_URL": api.url,
    }


def prefect_environment() -> dict[str, str]:
    """Return what every Prefect process of ours should have in its environment, unless the user has set it.

    Nothing is reported to anybody, and our log lines reach Prefect's runs.
    """
    return {
        "PYTHONSAFEPATH": "1",  # a file of the project, such as secrets.py, must not stand in for a module
        "no_proxy": no_proxy(),
        "DO_NOT_TRACK": "1",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_LOGGING_EXTRA_LOGGERS": ",".join(PACKAGES),
        "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
        "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(HEARTBEAT_S),
        **PLUGIN_ENVIRONMENT,
    }


def no_proxy() -> str:
    """Return the environment variable of this name, with our own machine in it."""
    hosts = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    found = [host.strip() for host in hosts.split(",") if host.strip()]
    return hosts if "*" in found else ",".join(dict.fromkeys([*found, *LOOPBACK]))


def state_folder(project: Path) -> Path:
    """Return the folder of the project's server and worker; make it where it is missing, readable by nobody else."""
    folder = project.resolve() / STATE_FOLDER
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def prepare_process() -> None:
    """Give this process the environment of `prefect_environment`; call it before anything imports Prefect."""
    environment = {**prefect_environment(), "PREFECT_LOGGING_LEVEL": "WARNING"}
    os.environ["no_proxy"] = environment.pop("no_proxy")
    for name, value in environment.items():
        os.environ.setdefault(name, value)


def configured_api() -> Api | None:
    """Return the API that Prefect's settings name in the current folder, or None where they name none."""
    from prefect.settings import get_current_settings

    api = get_current_settings().api
    if not api.url:
        return None
    auth_string = api.auth_string.get_secret_value() if api.auth_string else None
    return Api(url=api.url, auth_string=auth_string, key=api.key.get_secret_value() if api.key else None)


def probe(api: Api) -> Answer:
    """Tell if an API answers, refuses our auth string, or is silent (nothing listens, or something else does)."""
    import httpx

    # The auth string goes as it is: Prefect's server compares the whole of it, which need not have a colon.
    authorization = None
    if api.auth_string:
        authorization = f"Basic {base64.b64encode(api.auth_string.encode()).decode()}"
    elif api.key:
        authorization = f"Bearer {api.key}"
    try:
        # Our own machine is asked without a proxy.
        trust_env = urllib.parse.urlsplit(api.url).hostname not in (*LOOPBACK, "::1")
        with httpx.Client(trust_env=trust_env, follow_redirects=True, timeout=PROBE_TIMEOUT_S) as client:
            # What follows the status is not read: another program's answer may have no end.
            with client.stream("GET", f"{api.url}/health") as answer:
                if answer.status_code != httpx.codes.OK:
                    return "silent"
            headers = {"Authorization": authorization} if authorization else {}
            with client.stream("GET", f"{api.url}/admin/version", headers=headers) as answer:
                status = answer.status_code
    # The last two are the environment's: certificates that are not there, a proxy of a kind that is not installed.
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, OSError, ImportError):
        return "silent"
    return "refuses" if status in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN) else "answers"


def answers(api: Api, *, otherwise: str) -> bool:
    """Tell whether an API that the settings name answers; warn of a silent one, with what is done `otherwise`.

    Raises:
        SettingsError: it refuses our auth string.
    """
    answer = probe(api)
    if answer == "refuses":
        raise SettingsError(
            f"the Prefect server at {api.url} refuses the auth string: set PREFECT_API_AUTH_STRING, "
            "or unset PREFECT_API_URL"
        )
    if answer == "silent":
        logger.warning("no Prefect server answers at %s: %s", api.url, otherwise)
    return answer == "answers"


def read_env_block(project: Path) -> Api | None:
    """Return the API that `vernaclip up` wrote into the project's `.env`, or None."""
    block = _ENV_BLOCK.search(_env_text(project))
    values = dict(re.findall(r"^(\w+)='?(.*?)'?$", block[0], re.MULTILINE)) if block else {}
    url = values.get("PREFECT_API_URL")
    return Api(url=url, auth_string=values.get("PREFECT_API_AUTH_STRING")) if url else None


def write_env_block(project: Path, api: Api) -> None:
    """Put the API into the project's `.env` (mode 600), where plain `prefect` finds it; other lines stay."""
    values = {**api.environment(), **PLUGIN_ENVIRONMENT}
    lines = [_BEGIN, *(f"{name}='{value}'" for name, value in values.items()), _END]
    _replace_env_block(project, "".join(f"{line}\n" for line in lines))


def remove_env_block(project: Path) -> None:
    """Take our lines out of the project's `.env`, and the file away if nothing else was in it."""
    if _ENV_BLOCK.search(_env_text(project)):
        _replace_env_block(project, "")


def _replace_env_block(project: Path, block: str) -> None:
    rest = _ENV_BLOCK.sub("", _env_text(project))
    if rest and not rest.endswith("\n"):
        rest += "\n"
    path = project / ENV_FILE
    if not block and not rest.strip():
        path.unlink(missing_ok=True)
        return
    # A temporary file of mode 600 from its first moment: the secret is never readable by others.
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=project, prefix=".env-", delete=False) as file:
        file.write(rest + block)
    Path(file.name).replace(path)


def _env_text(project: Path) -> str:
    path = project / ENV_FILE
    return path.read_text(encoding="utf-8") if path.is_file() else ""

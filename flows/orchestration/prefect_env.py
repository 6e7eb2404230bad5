"""The Prefect API that a project uses, and the environment of our Prefect processes.

The API is found in Prefect's own order: environment variables, `.env` of the current folder, prefect.toml,
pyproject.toml, the user's profile. `vernaclip up` writes its URL and auth string into `.env`, between two marks.
"""

import base64
import logging
import math
import os
import re
import secrets
import tempfile
import time
import urllib.parse
from dataclasses import dataclass, field
from pathlib import Path

from data_catalog.base.boundary import about
from data_catalog.base.errors import DiskError, SettingsError
from flows import PACKAGES
from flows.orchestration.daemons import POLL_S, START_TIMEOUT_S

logger = logging.getLogger(__name__)

# In the project's folder and ignored by git; contains the server's database, process ids and logs.
STATE_FOLDER = ".vernaclip"
ENV_FILE = ".env"
_BEGIN, _END = "# >>> written by `vernaclip up`, removed by `vernaclip down`", "# <<< vernaclip"
_ENV_BLOCK = re.compile(rf"^{re.escape(_BEGIN)}\n.*?(?:^{re.escape(_END)}\n?|\Z)", re.MULTILINE | re.DOTALL)
PROBE_TIMEOUT_S = 3.0
HOST = "127.0.0.1"  # our servers listen here
_LOOPBACK = (HOST, "localhost")

# Switches our plugin on in folders whose pyproject.toml does not, so that short deployment names work there, too.
PLUGIN_ENVIRONMENT = {"PREFECT_PLUGINS_ENABLED": "true", "PREFECT_PLUGINS_ALLOW": "vernaclip"}

ANSWERS, REFUSES, NOT_READY = 200, (401, 403), 503  # statuses of HTTP


@dataclass(frozen=True, slots=True, kw_only=True)
class Api:
    """A Prefect API: its URL, ending in /api, and its credentials (a user:password pair, or a Prefect Cloud key)."""

    url: str
    auth_string: str | None = field(default=None, repr=False)
    key: str | None = field(default=None, repr=False)

    @property
    def ui_url(self) -> str:
        """Return the URL of the server's pages."""
        return self.url.removesuffix("/api")

    def environment(self) -> dict[str, str]:
        """Return the environment variables with which a Prefect process finds this API."""
        found = {"PREFECT_API_URL": self.url, "PREFECT_API_AUTH_STRING": self.auth_string, "PREFECT_API_KEY": self.key}
        return {name: value for name, value in found.items() if value is not None}


def new_api(port: int, auth_string: str | None = None) -> Api:
    """Return the API of one of our servers, with a new random password unless it is given one."""
    return Api(url=f"http://{HOST}:{port}/api", auth_string=auth_string or f"vernaclip:{secrets.token_urlsafe(24)}")


def server_environment(api: Api, database: Path) -> dict[str, str]:
    """Return the environment of one of our servers, which requires its auth string and refuses foreign origins.

    No other server may use the database, an SQLite file.
    """
    assert api.auth_string, "the server would be open to everybody"
    return {
        **prefect_environment(),
        **api.environment(),
        "PREFECT_SERVER_API_AUTH_STRING": api.auth_string,
        "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": api.ui_url,
        "PREFECT_SERVER_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{urllib.parse.quote(str(database))}",
        "PREFECT_UI_API_URL": api.url,
    }


def prefect_environment() -> dict[str, str]:
    """Return the environment variables of our Prefect processes.

    They switch telemetry off, forward our log lines to Prefect's runs, and repeat requests that a busy server answers
    with 503, after 2, 4, 8... seconds, for as long as a server may take to start.
    """
    return {
        "PYTHONSAFEPATH": "1",  # a file of the project, such as secrets.py, must not hide a module
        "no_proxy": no_proxy(),
        "DO_NOT_TRACK": "1",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_LOGGING_EXTRA_LOGGERS": ",".join(PACKAGES),
        "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
        "PREFECT_CLIENT_MAX_RETRIES": str(math.ceil(math.log2(START_TIMEOUT_S + 2)) - 1),
        **PLUGIN_ENVIRONMENT,
    }


def no_proxy() -> str:
    """Return the value of the environment variable `no_proxy` with this machine added."""
    hosts = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    found = [host.strip() for host in hosts.split(",") if host.strip()]
    return hosts if "*" in found else ",".join(dict.fromkeys([*found, *_LOOPBACK]))


def prepare_process() -> None:
    """Set the variables of `prefect_environment`, unless the user has; must be called before Prefect is imported."""
    os.environ["no_proxy"] = no_proxy()
    for name, value in {**prefect_environment(), "PREFECT_LOGGING_LEVEL": "WARNING"}.items():
        os.environ.setdefault(name, value)


def state_folder(project: Path) -> Path:
    """Return the folder of the project's server and worker; create it if necessary, readable only by its owner."""
    folder = project.resolve() / STATE_FOLDER
    remedy = "change to a folder that you can write to, or use --executor local"
    with about(f"{folder}, in which Prefect's server keeps its state, cannot be made", kind=DiskError, remedy=remedy):
        folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def configured_api() -> Api | None:
    """Return the API of Prefect's settings in the current folder, or None if they name none."""
    _env_text(Path())  # as Prefect reads it when it is imported
    from prefect.settings import get_current_settings

    api = get_current_settings().api
    auth_string, key = (secret.get_secret_value() if secret else None for secret in (api.auth_string, api.key))
    return Api(url=api.url, auth_string=auth_string, key=key) if api.url else None


def probe(api: Api) -> int:
    """Return the HTTP status of an API's answer to our credentials; 0 if nobody or another program answers."""
    import httpx

    # The auth string is sent unchanged: the Prefect server compares all of it, and it need not contain a colon.
    basic = f"Basic {base64.b64encode(api.auth_string.encode()).decode()}" if api.auth_string else None
    shown = basic or (f"Bearer {api.key}" if api.key else None)
    try:
        # Requests to this machine do not go through a proxy.
        trust_env = urllib.parse.urlsplit(api.url).hostname not in (*_LOOPBACK, "::1")
        with httpx.Client(trust_env=trust_env, follow_redirects=True, timeout=PROBE_TIMEOUT_S) as client:
            for path, headers in (("/health", {}), ("/admin/version", {"Authorization": shown} if shown else {})):
                # The body is not read, as that of another program may be endless.
                with client.stream("GET", api.url + path, headers=headers) as answer:
                    status = answer.status_code
                if path == "/health" and status != ANSWERS:
                    return status if status == NOT_READY else 0
    # OSError and ImportError come from the environment: missing certificates, or a proxy that needs another package.
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, OSError, ImportError):
        return 0
    return status


def answers(api: Api, *, otherwise: str) -> bool:
    """Return True if the API of the settings answers; if it is silent, warn of what happens otherwise."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while (status := probe(api)) == NOT_READY and time.monotonic() < deadline:
        time.sleep(POLL_S)
    if status in REFUSES:
        raise SettingsError(
            f"the Prefect server at {api.url} refuses the auth string. If `vernaclip up` wrote both into {ENV_FILE}, "
            "another folder's server has taken the port since: run `vernaclip up` again. Else correct "
            "PREFECT_API_AUTH_STRING, or unset PREFECT_API_URL"
        )
    if status != ANSWERS:
        logger.warning("no Prefect server answers at %s: %s", api.url, otherwise)
    return status == ANSWERS


def read_env_block(project: Path) -> Api | None:
    """Return the API that `vernaclip up` wrote into the project's `.env`, or None."""
    block = _ENV_BLOCK.search(_env_text(project))
    values = dict(re.findall(r"^(\w+)='?(.*?)'?$", block[0], re.MULTILINE)) if block else {}
    url = values.get("PREFECT_API_URL")
    return Api(url=url, auth_string=values.get("PREFECT_API_AUTH_STRING")) if url else None


def write_env_block(project: Path, api: Api | None) -> None:
    """Write the API into the project's `.env` (mode 600), where `prefect` commands find it; keep other lines.

    Without an API, remove our lines, and the file if nothing else is in it.
    """
    text = _env_text(project)
    rest = _ENV_BLOCK.sub("", text)
    if api is None and rest == text:
        return
    values = {**api.environment(), **PLUGIN_ENVIRONMENT} if api else {}
    lines = [_BEGIN, *(f"{name}='{value}'" for name, value in values.items()), _END] if api else []
    path = (project / ENV_FILE).resolve()  # a link of the user's stays one
    if not lines and not rest.strip():
        path.unlink()
        return
    kept = rest if not rest or rest.endswith("\n") else f"{rest}\n"
    # The temporary file is created with mode 600, so that others can never read the secret.
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=path.parent, prefix=".env-", delete=False) as file:
        file.write(kept + "".join(f"{line}\n" for line in lines))
    Path(file.name).replace(path)


def _env_text(project: Path) -> str:
    """Return the text of the project's `.env`, or "" if there is none; Prefect reads it as UTF-8."""
    path = project / ENV_FILE
    with about(f"{path} cannot be read", kind=SettingsError, remedy="save it as UTF-8, or move it away"):
        return path.read_text(encoding="utf-8") if path.is_file() else ""

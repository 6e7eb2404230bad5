"""Which Prefect API a project talks to: the lines in `.env`, what answers at an address, and bare deployment names."""

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import entry_points
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy.engine import make_url

from data_catalog.errors import SettingsError
from flows.orchestration import prefect_plugin
from flows.orchestration.prefect_env import (
    Api,
    prefect_environment,
    probe,
    read_env_block,
    remove_env_block,
    server_environment,
    state_folder,
    write_env_block,
)

API = Api(url="http://127.0.0.1:4321/api", auth_string="vernaclip:s3cret")


@pytest.mark.parametrize("before", [None, "A=1\n", "A=1", "# note\n\nB='x y'\n"])
def test_what_up_writes_is_private_and_the_users_own_lines_stay(tmp_path: Path, before: str | None) -> None:
    path = tmp_path / ".env"
    if before:
        path.write_text(before, encoding="utf-8")
    for api in (Api(url="http://127.0.0.1:1/api"), API):
        write_env_block(tmp_path, api)
        assert read_env_block(tmp_path) == api
    assert (path.stat().st_mode & 0o777, state_folder(tmp_path).stat().st_mode & 0o777) == (0o600, 0o700)
    assert "s3cret" not in repr(API)
    assert path.read_text(encoding="utf-8").count("PREFECT_API_URL") == 1
    remove_env_block(tmp_path)
    assert read_env_block(tmp_path) is None
    assert path.exists() == bool(before)
    assert not before or path.read_text(encoding="utf-8") == before.rstrip("\n") + "\n"
    path.write_text("PREFECT_API_URL=http://elsewhere/api", encoding="utf-8")
    remove_env_block(tmp_path)
    assert read_env_block(tmp_path) is None
    assert path.read_text(encoding="utf-8") == "PREFECT_API_URL=http://elsewhere/api"


def test_the_database_is_in_a_projects_folder_whatever_its_name(tmp_path: Path) -> None:
    database = tmp_path / "50%41 of a project's runs? #1 & ü" / "prefect.db"
    database.parent.mkdir()
    url = server_environment(API, database)["PREFECT_SERVER_DATABASE_CONNECTION_URL"]
    assert make_url(url).database == str(database)


def test_no_server_of_ours_starts_without_an_auth_string(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no auth string"):
        server_environment(Api(url=API.url), tmp_path / "prefect.db")


def test_a_file_of_the_project_stands_in_for_no_module_of_the_server(tmp_path: Path) -> None:
    (tmp_path / "secrets.py").write_text("raise SystemExit('not for you')", encoding="utf-8")
    environment = {**os.environ, **prefect_environment()}
    subprocess.run([sys.executable, "-m", "secrets"], cwd=tmp_path, env=environment, check=True)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({}, "127.0.0.1,localhost"),
        ({"NO_PROXY": "example.org"}, "example.org,127.0.0.1,localhost"),
        ({"NO_PROXY": "hidden.org", "no_proxy": "localhost, example.org"}, "localhost,example.org,127.0.0.1"),
        ({"no_proxy": "*"}, "*"),
    ],
)
def test_no_proxy_stands_between_us_and_our_own_machine(
    before: dict[str, str], after: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        if name in before:
            monkeypatch.setenv(name, before[name])
    assert prefect_environment()["no_proxy"] == after


@contextmanager
def listening(status_of: Callable[[str, str | None], int]) -> Iterator[str]:
    """An HTTP server that answers each path and Authorization header with a status."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status_of(self.path, self.headers.get("Authorization")))
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Tests need no log."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/api"
        server.shutdown()


def like_prefect(path: str, authorization: str | None) -> int:
    """A server that shows its health to everybody and its version to who sends one string, or another without colon."""
    return 200 if path == "/api/health" or authorization in ("Basic dXNlcjpwYXNz", "Basic c2VjcmV0") else 401


@pytest.mark.parametrize(
    ("auth_string", "expected"),
    [("user:pass", "answers"), ("secret", "answers"), ("user:wrong", "refuses"), (None, "refuses")],
)
def test_a_server_answers_or_refuses_by_the_whole_auth_string(auth_string: str | None, expected: str) -> None:
    with listening(like_prefect) as url:
        assert probe(Api(url=url, auth_string=auth_string)) == expected
    assert probe(Api(url=url, auth_string=auth_string)) == "silent"
    with listening(lambda path, authorization: 404) as url:
        assert probe(Api(url=url)) == "silent", "another program"


@pytest.mark.parametrize(
    ("url", "variables"),
    [
        ("http://127.0.0.1:notaport/api", {}),
        ("nonsense", {}),
        ("file:///etc/api", {}),
        ("https://prefect.invalid/api", {"SSL_CERT_FILE": "/nowhere/certificates.pem"}),
        ("https://prefect.invalid/api", {"ALL_PROXY": "socks5://127.0.0.1:9"}),
    ],
)
def test_what_reaches_no_server_is_silent(url: str, variables: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert probe(Api(url=url)) == "silent"


class Client:
    """A client of a server with the deployments `scenes`, of the flow `build-dataset`, and `twin`, of two flows."""

    def read_deployments(self, deployment_filter: Any) -> list[SimpleNamespace]:
        flows = {"scenes": ["build-dataset"], "twin": ["b", "a"]}
        return [SimpleNamespace(flow_id=flow) for flow in flows.get(deployment_filter.name.any_[0], [])]

    def read_flow(self, flow_id: str) -> SimpleNamespace:
        return SimpleNamespace(name=flow_id)

    def read_deployment_by_name(self, name: str) -> str:
        return f"found {name}"


class AsyncClient:
    """The same, to be awaited."""

    async def read_deployments(self, deployment_filter: Any) -> list[SimpleNamespace]:
        return Client().read_deployments(deployment_filter)

    async def read_flow(self, flow_id: str) -> SimpleNamespace:
        return Client().read_flow(flow_id)

    async def read_deployment_by_name(self, name: str) -> str:
        return f"found {name}"


def test_bare_and_full_names_of_deployments_are_understood_by_both_clients() -> None:
    for _ in range(2):  # twice is as good as once
        prefect_plugin.wrap_lookup(AsyncClient, Client)
    names = {"scenes": "build-dataset/scenes", "x/scenes": "x/scenes", "none": "none/none"}
    for name, expected in names.items():
        assert Client().read_deployment_by_name(name) == f"found {expected}"
        assert asyncio.run(AsyncClient().read_deployment_by_name(name)) == f"found {expected}"
    with pytest.raises(SettingsError, match="one of a/twin, b/twin"):
        Client().read_deployment_by_name("twin")


def test_prefect_finds_the_plugin_and_one_that_has_moved_its_client_goes_on_with_full_names(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (point,) = [point for point in entry_points(group="prefect.plugins") if point.name == "vernaclip"]
    monkeypatch.setitem(sys.modules, "prefect.client.orchestration._deployments.client", None)
    point.load().setup_environment(ctx=SimpleNamespace(prefect_version="9.9"))
    assert "use full names" in caplog.text

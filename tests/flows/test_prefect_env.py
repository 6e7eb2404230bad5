"""Which Prefect API a project talks to: the lines in `.env`, and what answers at an address."""

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from sqlalchemy.engine import make_url

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


def test_a_file_without_our_lines_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("PREFECT_API_URL=http://elsewhere/api", encoding="utf-8")
    remove_env_block(tmp_path)
    assert read_env_block(tmp_path) is None
    assert (tmp_path / ".env").read_text(encoding="utf-8") == "PREFECT_API_URL=http://elsewhere/api"


def test_the_database_is_in_a_projects_folder_whatever_its_name(tmp_path: Path) -> None:
    project = tmp_path / "50%41 of a project's runs? #1 & ü"
    project.mkdir()
    database = project / "prefect.db"
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
    before: dict[str, str], after: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    for name, value in before.items():
        monkeypatch.setenv(name, value)
    assert prefect_environment()["no_proxy"] == after


@contextmanager
def listening(status_of: Callable[[str, str | None], int], is_over: threading.Event | None = None) -> Iterator[str]:
    """An HTTP server that answers each path and Authorization header with a status, and a body until it is over."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status_of(self.path, self.headers.get("Authorization")))
            if is_over is None:
                self.send_header("Content-Length", "0")
            self.end_headers()
            with suppress(OSError):
                while is_over is not None and not is_over.wait(0.1):
                    self.wfile.write(b"more")

        def log_message(self, format: str, *args: object) -> None:
            """Tests need no log."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/api"
        finally:
            if is_over is not None:
                is_over.set()
            server.shutdown()


def like_prefect(path: str, authorization: str | None) -> int:
    """A server that shows its health to everybody and its version to who sends one string, or another without colon."""
    if path == "/api/health":
        return 200
    return 200 if authorization in ("Basic dXNlcjpwYXNz", "Basic c2VjcmV0") else 401


@pytest.mark.parametrize(
    ("auth_string", "expected"),
    [("user:pass", "answers"), ("secret", "answers"), ("user:wrong", "refuses"), (None, "refuses")],
)
def test_a_server_answers_or_refuses_by_the_whole_auth_string(auth_string: str | None, expected: str) -> None:
    with listening(like_prefect) as url:
        assert probe(Api(url=url, auth_string=auth_string)) == expected
    assert probe(Api(url=url, auth_string=auth_string)) == "silent"


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


def test_another_program_is_no_server_and_an_answer_without_an_end_is_not_waited_for() -> None:
    with listening(lambda path, authorization: 404) as url:
        assert probe(Api(url=url)) == "silent"
    with listening(lambda path, authorization: 200, threading.Event()) as url, ThreadPoolExecutor(1) as pool:
        assert pool.submit(probe, Api(url=url)).result(timeout=60) == "answers"

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


def test_what_up_writes_is_read_back_and_private(tmp_path: Path) -> None:
    write_env_block(tmp_path, API)
    assert read_env_block(tmp_path) == API
    assert (tmp_path / ".env").stat().st_mode & 0o777 == 0o600
    assert state_folder(tmp_path).stat().st_mode & 0o777 == 0o700
    assert "s3cret" not in repr(API)


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


def test_down_leaves_no_trace(tmp_path: Path) -> None:
    write_env_block(tmp_path, API)
    remove_env_block(tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert read_env_block(tmp_path) is None


@pytest.mark.parametrize("before", ["A=1\n", "A=1", "# note\n\nB='x y'\n"])
def test_the_users_own_lines_stay(tmp_path: Path, before: str) -> None:
    path = tmp_path / ".env"
    path.write_text(before, encoding="utf-8")
    write_env_block(tmp_path, API)
    write_env_block(tmp_path, Api(url="http://127.0.0.1:1/api"))
    assert read_env_block(tmp_path) == Api(url="http://127.0.0.1:1/api")
    assert path.read_text(encoding="utf-8").count("PREFECT_API_URL") == 1
    remove_env_block(tmp_path)
    assert path.read_text(encoding="utf-8") == before.rstrip("\n") + "\n"


def test_a_file_without_our_lines_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("PREFECT_API_URL=http://elsewhere/api", encoding="utf-8")
    remove_env_block(tmp_path)
    assert read_env_block(tmp_path) is None
    assert (tmp_path / ".env").read_text(encoding="utf-8") == "PREFECT_API_URL=http://elsewhere/api"


@contextmanager
def listening(status_of: Callable[[str, str | None], int]) -> Iterator[str]:
    """An HTTP server that answers each path and Authorization header with a status; yields its API's URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status_of(self.path, self.headers.get("Authorization")))
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Tests need no log."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/api"
        server.shutdown()
        thread.join()


def like_prefect(path: str, authorization: str | None) -> int:
    """A server that shows its health to everybody and its version to user:pass only."""
    if path == "/api/health":
        return 200
    return 200 if authorization == "Basic dXNlcjpwYXNz" else 401


def test_a_server_answers_or_refuses_by_the_auth_string() -> None:
    with listening(like_prefect) as url:
        assert probe(Api(url=url, auth_string="user:pass")) == "answers"
        assert probe(Api(url=url, auth_string="user:wrong")) == "refuses"
        assert probe(Api(url=url)) == "refuses"
    assert probe(Api(url=url, auth_string="user:pass")) == "silent"


def test_another_program_on_the_port_is_no_prefect_server() -> None:
    with listening(lambda path, authorization: 404) as url:
        assert probe(Api(url=url)) == "silent"


@pytest.mark.parametrize("url", ["http://127.0.0.1:notaport/api", "nonsense", "file:///etc/api"])
def test_an_address_that_is_none_is_silent(url: str) -> None:
    assert probe(Api(url=url)) == "silent"


def test_an_auth_string_is_sent_as_it_is() -> None:
    """Prefect's server compares the whole string, which need not have a colon."""
    with listening(lambda path, sent: 200 if path == "/api/health" or sent == "Basic c2VjcmV0" else 401) as url:
        assert probe(Api(url=url, auth_string="secret")) == "answers"


@pytest.mark.parametrize(
    ("name", "value"), [("SSL_CERT_FILE", "/nowhere/certificates.pem"), ("ALL_PROXY", "socks5://127.0.0.1:9")]
)
def test_an_environment_that_reaches_no_server_is_silent(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    assert probe(Api(url="https://prefect.invalid/api")) == "silent"


def test_an_answer_without_an_end_is_not_waited_for() -> None:
    is_over = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            with suppress(OSError):
                while not is_over.wait(0.1):
                    self.wfile.write(b"more")

        def log_message(self, format: str, *args: object) -> None:
            """Tests need no log."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server, ThreadPoolExecutor(2) as pool:
        pool.submit(server.serve_forever)
        try:
            url = f"http://127.0.0.1:{server.server_port}/api"
            assert pool.submit(probe, Api(url=url)).result(timeout=10) == "answers"
        finally:
            is_over.set()
            server.shutdown()

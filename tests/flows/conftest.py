"""A small sample, built once, for tests that ask questions of a catalog; and what is asked of every Prefect API."""

import json
import re
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import httpx
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect
from websockets.typing import Subprotocol

from flows.build.execution import LocalExecutor
from flows.jobs import BuildReport, build_dataset
from flows.orchestration.prefect_env import Api
from flows.recipe.recipe import Recipe, load_recipe

NUM_IMAGES = 80


def _unused_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture
def free_port() -> int:
    """A port of this machine that nobody listens on."""
    return _unused_port()


@pytest.fixture(scope="module")
def unused_port() -> int:
    """Such a port for all tests of a module."""
    return _unused_port()


SMALL_MODEL = {
    "embed_dim": 32,
    "custom_text": True,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16},
    "text_cfg": {
        "context_length": 24,
        "vocab_size": 400,
        "width": 32,
        "heads": 2,
        "layers": 1,
        "hf_tokenizer_name": "tokenizer",
    },
}


@pytest.fixture(scope="session")
def small_model() -> str:
    """A model config, as JSON, that trains an epoch of the small sample in seconds."""
    return json.dumps(SMALL_MODEL)


@pytest.fixture(scope="session")
def english_overrides() -> list[str]:
    """The scenes recipe made small and English: every step but translating."""
    port = _unused_port()
    return [
        'target_language="en"',
        'scenes.target_language="en"',
        f"scenes.num_images={NUM_IMAGES}",
        f'scenes.base_url="http://127.0.0.1:{port}"',
        f"serve.port={port}",
        "build.shard_size=40",
        "split.val=0.2",
    ]


EnglishRecipe = Callable[..., Recipe]


@pytest.fixture(scope="session")
def english_recipe(english_overrides: list[str]) -> EnglishRecipe:
    """Called with a root, and more overrides, gives the small English recipe."""

    def recipe(root: Path, *more: str) -> Recipe:
        return load_recipe("scenes", root=root, overrides=[*english_overrides, *more])

    return recipe


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory, english_recipe: EnglishRecipe) -> tuple[Path, BuildReport]:
    """A root with the small English sample, and the report of its build."""
    root = tmp_path_factory.mktemp("built") / "catalog"
    with LocalExecutor() as executor:
        return root, build_dataset(english_recipe(root), root=root, executor=executor)


@pytest.fixture
def copied(built: tuple[Path, BuildReport], tmp_path: Path) -> Path:
    """A copy of its root, to be changed: without step outputs and upstream files, its views those of the original."""
    ignored = shutil.ignore_patterns("work", "upstream", "packages")
    return Path(shutil.copytree(built[0], tmp_path / "it's a root", ignore=ignored))


class ApiDoors:
    """What a Prefect API answers to whom; every server of ours is tried in the same way."""

    OPEN = (("GET", "/health"), ("GET", "/ready"))
    SOCKETS = (
        "events/in",
        "events/out",
        "logs/out",
        "task_runs/subscriptions/scheduled",
        "work_pools/x/workers/connect",
    )
    FOREIGN: ClassVar = {"Origin": "https://elsewhere.example", "Access-Control-Request-Method": "POST"}

    def ask(self, api: Api, method: str, path: str, *, auth: str | None = None, **more: Any) -> httpx.Response:
        """Ask below the API's address, with an auth string or without."""
        credentials = httpx.BasicAuth(*auth.split(":", 1)) if auth else None
        return httpx.request(method, api.url + path, auth=credentials, timeout=60, trust_env=False, **more)

    def flow_names(self, api: Api) -> set[str]:
        return {flow["name"] for flow in self.ask(api, "POST", "/flows/filter", auth=api.auth_string, json={}).json()}

    def assert_closed(self, api: Api, *, sample: int = 1) -> None:
        """Try every `sample`-th route, each kind of path beside them, foreign origins and the sockets."""
        asked = self._routes(api)
        assert len(asked) > 150
        for method, path in asked[::sample]:
            is_open = (method, path) in self.OPEN
            assert self.ask(api, method, path).status_code == (200 if is_open else 401), (method, path)
            assert is_open or self.ask(api, method, path, auth="vernaclip:guess").status_code == 401, (method, path)
        for path in ("/", "/nothing", "/docs", "/static/prefect-logo-mark-gradient.png"):
            assert self.ask(api, "GET", path).status_code == 401, path
        for method in ("GET", "OPTIONS"):
            answer = self.ask(api, method, "/health", headers=self.FOREIGN)
            assert "access-control-allow-origin" not in answer.headers, method
        for path in self.SOCKETS[::sample]:
            assert not self._socket_opens(api, path, None), path
            assert not self._socket_opens(api, path, "vernaclip:guess"), path
        assert self._socket_opens(api, "events/out", api.auth_string)
        assert self.ask(api, "GET", "/admin/version", auth=api.auth_string).status_code == 200

    def _routes(self, api: Api) -> list[tuple[str, str]]:
        """Every method and path of the API, with made-up ids, by the server's own description."""
        paths = httpx.get(f"{api.ui_url}/openapi.json", timeout=60, trust_env=False).json()["paths"]
        methods = {"get", "post", "put", "patch", "delete"}
        found = [(method.upper(), path) for path, of in paths.items() for method in methods & set(of)]
        return sorted((method, re.sub(r"{[^}]*}", "0" * 8, path)) for method, path in found)

    def _socket_opens(self, api: Api, path: str, token: str | None) -> bool:
        """Whether a WebSocket is opened to whoever shows a token, or neither a token nor the subprotocol for one."""
        url = f"{api.url.replace('http', 'ws', 1)}/{path}"
        protocols = [Subprotocol("prefect")] if token else None
        try:
            with connect(url, subprotocols=protocols, open_timeout=60, proxy=None) as socket:
                if token:
                    socket.send(json.dumps({"type": "auth", "token": token}))
                return "auth_success" in str(socket.recv(timeout=60))
        except (ConnectionClosed, InvalidStatus):
            return False


@pytest.fixture
def api_doors() -> ApiDoors:
    """Whether a Prefect API is closed to whoever lacks its password."""
    return ApiDoors()

"""A small sample, built once; builds of a few pictures of a test's own; a project in which commands are given."""

import io
import json
import os
import random
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import partial
from http.server import SimpleHTTPRequestHandler
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from loopback import LoopbackHandler, LoopbackServer
from PIL import Image

from data_catalog.catalog.query import query
from data_catalog.fetch import workers
from data_catalog.images.decoders import Decoders
from data_catalog.report.page import refresh_report
from flows.build.execution import LocalExecutor
from flows.cli import main
from flows.datasets import BuildReport, build_dataset
from flows.orchestration.prefect_env import Api, read_env_block
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


@pytest.fixture
def told(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Called with a command, gives what it prints: its output, or the error with which another exit code comes."""

    def call(words: Sequence[str], code: int = 0) -> str:
        capsys.readouterr()
        assert main(list(words)) == code
        captured = capsys.readouterr()
        return captured.err if code else captured.out

    return call


@pytest.fixture(scope="session")
def child() -> Callable[..., "subprocess.Popen[str]"]:
    """Called with a command, starts it in a process of its own, where failpoints may be armed."""

    def start(words: Sequence[str], failpoints: str = "", **more: Any) -> "subprocess.Popen[str]":
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        environment = {**os.environ, "VERNACLIP_FAILPOINTS": failpoints}
        command = [sys.executable, "-m", "flows.cli", *words]
        return subprocess.Popen(command, env=environment, text=True, **(pipes | more))

    return start


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
def built(
    tmp_path_factory: pytest.TempPathFactory, english_recipe: EnglishRecipe, _shared_decoders: Decoders
) -> tuple[Path, BuildReport]:
    """A root with the small English sample, and the report of its build."""
    root = tmp_path_factory.mktemp("built") / "catalog"
    with LocalExecutor() as executor, pytest.MonkeyPatch.context() as patch:
        patch.setattr(workers, "Decoders", lambda: _shared_decoders)
        patch.setattr("flows.datasets.refresh_report", refresh_report)  # also where it is asked for among quick builds
        return root, build_dataset(english_recipe(root), root=root, executor=executor)


@pytest.fixture
def copied(built: tuple[Path, BuildReport], tmp_path: Path) -> Path:
    """A copy of its root, to be changed: without step outputs and upstream files, its views those of the original."""
    ignored = shutil.ignore_patterns("work", "upstream", "packages")
    return Path(shutil.copytree(built[0], tmp_path / "it's a root", ignore=ignored))


class _SharedDecoders(Decoders):
    """Decoding processes that stay for the next build of this process."""

    def close(self) -> None:
        """Leave them."""


@pytest.fixture(scope="session")
def _shared_decoders() -> Iterator[Decoders]:
    decoders = _SharedDecoders()
    yield decoders
    Decoders.close(decoders)


@pytest.fixture(scope="module")
def quick_builds(_shared_decoders: Decoders) -> Iterator[None]:
    """Builds of a module in this process share children for images, and write no report: a quarter of the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(workers, "Decoders", lambda: _shared_decoders)
        patch.setattr("flows.datasets.refresh_report", lambda *_, **__: None)
        yield


class OwnFolder:
    """A folder with photographs, tables of captions, a recipe, and the catalog that is built from it."""

    NOUNS = ("dog", "cat", "train", "kite", "flower", "bridge", "horse", "plane", "violin", "truck")
    COLOURS = ("red", "blue", "green", "yellow", "white", "black", "brown", "grey")

    def __init__(self, folder: Path) -> None:
        self.folder, self.root, self.photos = folder, folder / "catalog", folder / "photos"
        self.photos.mkdir(exist_ok=True)

    def caption(self, number: int) -> str:
        """Captions of which no two are near each other."""
        noun, colour = self.NOUNS[number % len(self.NOUNS)], self.COLOURS[number // len(self.NOUNS) % len(self.COLOURS)]
        return f"A {colour} {noun} stands beside the other {number} of them"

    def photo(self, seed: int) -> Image.Image:
        """Smooth noise of all scales, as photographs have it; no two seeds look alike."""
        numbers, size = np.random.default_rng(seed), (256, 192)
        noise = [Image.fromarray(numbers.integers(0, 255, (2**n, 2**n, 3), np.uint8)) for n in range(1, 7)]
        layers = [np.asarray(each.resize(size, Image.Resampling.BICUBIC), float) / n for n, each in enumerate(noise, 1)]
        total = sum(layers)
        return Image.fromarray((255 * (total - np.min(total)) / np.ptp(total)).astype(np.uint8))

    def save(self, name: str, picture: Image.Image | int, *, quality: int = 90) -> None:
        """Save a picture, or that of a seed, among the photographs."""
        (self.photo(picture) if isinstance(picture, int) else picture).save(self.photos / name, quality=quality)

    def source(
        self, name: str, columns: str, rows: Sequence[Sequence[str]], *, kind: str = "sources", **settings: str
    ) -> str:
        """TOML of a source, or another of its kind, whose table has these columns, such as "path caption"."""
        names = columns.split()
        lines = [json.dumps(dict(zip(names, row, strict=True))) for row in rows]
        (self.folder / f"{name}.jsonl").write_text("".join(f"{line}\n" for line in lines), "utf-8")
        given = {"kind": "pairs", "files": [f"{self.folder}/{name}.jsonl"], "lang": "en"}
        given |= {"images": str(self.photos)} if "path" in names else {}
        given |= {f"{column}_column": column for column in names}
        lines = [f"{key} = {json.dumps(value)}" for key, value in (given | settings).items() if value]
        return "\n".join([f"[{kind}.{name}]", *lines, ""])

    def recipe(self, toml: str, *overrides: str, name: str = "own") -> Recipe:
        """Load a recipe of this text, whose target language is English where the text names no other one."""
        target = "" if "target_language" in toml else 'target_language = "en"\n'
        (self.folder / f"{name}.toml").write_text(target + toml, "utf-8")
        return load_recipe(str(self.folder / f"{name}.toml"), root=self.root, overrides=overrides)

    def build(self, toml: str, *overrides: str, name: str = "own", **more: bool) -> BuildReport:
        """Build the recipe's dataset."""
        return self.build_recipe(self.recipe(toml, *overrides, name=name), **more)

    def build_recipe(self, recipe: Recipe, **more: bool) -> BuildReport:
        with LocalExecutor() as executor:
            return build_dataset(recipe, root=self.root, executor=executor, **more)

    def rows(self, sql: str) -> list[dict[str, Any]]:
        """Answer a question of the catalog."""
        found: list[dict[str, Any]] = query(self.root, sql).to_pylist()
        return found

    def outcomes(self) -> Mapping[str, str]:
        """By caption, why it was dropped, or the split of its pair."""
        sql = """
            SELECT source_caption, coalesce(c.drop_reason, p.split) AS outcome FROM captions c
            LEFT JOIN (SELECT split, unnest(caption_ids) AS caption_id FROM pairs) p USING (caption_id)
        """
        return {row["source_caption"]: row["outcome"] for row in self.rows(sql)}


@pytest.fixture(scope="module")
def own_folder(quick_builds: None) -> Callable[[Path], OwnFolder]:
    """Called with a path, gives a folder of one's own there."""
    return OwnFolder


@pytest.fixture
def own(own_folder: Callable[[Path], OwnFolder], tmp_path: Path) -> OwnFolder:
    """A folder of one's own for this test."""
    return own_folder(tmp_path)


class PictureHost(LoopbackServer):
    """Serves a picture a number to all names of this machine: /3.jpg, and /3-lighter-10.jpg, which looks like it.

    /to/3.jpg leads to that of localhost. `trouble` is answered instead, by path; no more after `stops_after` requests.
    """

    def __init__(self) -> None:
        super().__init__(_PictureHandler)
        self.reset()

    def reset(self) -> None:
        self.asked: list[str] = []  # of which host for which path, without robots.txt
        self.trouble: Mapping[str, int] = {}
        self.stops_after = 1_000
        self.stopped, self.goes_on = threading.Event(), threading.Event()

    @property
    def hits(self) -> Counter[str]:
        """How often each path was asked for."""
        return Counter("/" + asked.partition("/")[2] for asked in self.asked)

    @staticmethod
    def picture(seed: int, lighter: int = 0) -> bytes:
        """Blocks of grey, so that no two look alike; a little lighter, it does look alike."""
        buffer = io.BytesIO()
        blocks = Image.frombytes("L", (12, 8), random.Random(seed).randbytes(96))
        blocks = blocks.point(lambda grey: grey * 3 // 4 + lighter) if lighter else blocks
        blocks.resize((96, 64)).convert("RGB").save(buffer, "JPEG", quality=90)
        return buffer.getvalue()


class _PictureHandler(LoopbackHandler):
    server: PictureHost

    def do_GET(self) -> None:
        host = self.server
        if len(host.asked) >= host.stops_after:
            host.stopped.set()
            host.goes_on.wait(60)
            return
        if self.path != "/robots.txt":
            host.asked.append(self.headers["Host"].partition(":")[0] + self.path)
        name = self.path.partition("?")[0].rpartition("/")[2].removesuffix(".jpg").removesuffix("-again")
        number, _, lighter = name.partition("-lighter-")
        status = host.trouble.get(self.path, 302 if self.path.startswith("/to/") else 200 if number.isdigit() else 404)
        body = host.picture(int(number), int(lighter or 0)) if status == 200 else b"no"
        self.answer(status, body, Location=host.url(self.path.removeprefix("/to"), "localhost"))


@pytest.fixture(scope="module")
def picture_host() -> Iterator[PictureHost]:
    """A host of pictures."""
    with PictureHost() as server:
        yield server
        server.goes_on.set()


class _FileHandler(LoopbackHandler, SimpleHTTPRequestHandler):
    """Serves the files of a folder."""


@pytest.fixture
def mirror(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], AbstractContextManager[int]]:
    """Called with a folder, serves it within a `with` and gives the port; this machine is called `mirror.example`."""
    system, here = socket.getaddrinfo, {"mirror.example": "127.0.0.1"}
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, *args, **more: system(here.get(host, host), *args, **more))
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.delenv(name, raising=False)

    @contextmanager
    def serve(folder: Path) -> Iterator[int]:
        with LoopbackServer(partial(_FileHandler, directory=str(folder))) as server:
            yield server.server_port

    return serve


# In the environment of everything that a project starts: what is left of it can be found.
MARK = "VERNACLIP_TEST_PROJECT"


class Project:
    """A folder in which a user gives commands, each a process of its own; nothing of the user's own Prefect is used."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.found_api: Api | None = None
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
        self.environment = {**kept, "PREFECT_HOME": str(folder / "home"), "COLUMNS": "200", MARK: str(folder)}

    def start(self, *command: str, **environment: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, *command],
            cwd=self.folder,
            env={**self.environment, **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *command: str, code: int | None = 0, **environment: str) -> "subprocess.CompletedProcess[str]":
        """A command that ends with an exit code; None: with any."""
        with self.start(*command, **environment) as process:
            try:
                out, err = process.communicate(timeout=600)
            finally:
                process.kill()
        assert code in (None, process.returncode), out + err
        return subprocess.CompletedProcess(command, process.returncode, out, err)

    def processes(self, *words: str) -> set[int]:
        """All that were started from here with these words in their command, whoever their parent is now."""
        found = set()
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):  # it has ended, or is somebody else's
                is_ours = f"{MARK}={self.folder}".encode() in (process / "environ").read_bytes().split(b"\0")
                if is_ours and all(word.encode() in (process / "cmdline").read_bytes() for word in words):
                    found.add(int(process.name))
        return found

    @property
    def api(self) -> Api:
        """The server that `up` started, or another that was found here."""
        api = self.found_api or read_env_block(self.folder)
        assert api is not None
        return api

    def ask(self, path: str, question: dict[str, Any] | None = None, code: int = 200) -> Any:
        """A GET of the server's API, or a POST where there is a question."""
        method = "GET" if question is None else "POST"

        def answered() -> httpx.Response | None:
            auth = httpx.BasicAuth(*(self.api.auth_string or "").split(":"))
            url, more = self.api.url + path, {"trust_env": False, "verify": False, "timeout": 60}  # it speaks no TLS
            found = httpx.request(method, url, auth=auth, json=question, **more)
            return None if found.status_code == 503 else found  # a busy server's; Prefect's own clients ask again, too

        answer = self.until(answered)
        assert answer.status_code in (code, 201), answer.text
        return answer.json()

    @staticmethod
    def until(ready: Callable[[], Any], seconds: float = 120) -> Any:
        deadline = time.monotonic() + seconds
        while not (found := ready()):
            assert time.monotonic() < deadline, f"not within {seconds} s"
            time.sleep(0.2)  # a question to a server costs it, and us, a while
        return found


@pytest.fixture(scope="session")
def project_in() -> Callable[[Path], Project]:
    """Called with a folder, gives the project there."""
    return Project

"""Pairs of a few templates, a stand-in engine that costs nothing, and a DeepL on loopback."""

import json
import random
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from html.parser import HTMLParser
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from loopback import LoopbackHandler, LoopbackServer

from data_catalog.base.errors import TransientError
from flows.cli import main
from translation.engine import Translation

NUMBERS = {"two": "due", "three": "tre", "four": "quattro"}
NOUNS = {"circles": "cerchi", "squares": "quadrati", "hearts": "cuori", "rings": "anelli", "diamonds": "rombi"}
COLOURS = {"red": "rossi", "black": "neri", "white": "bianchi", "yellow": "gialli", "brown": "marroni"}
GROUNDS = {"green": "verde", "pink": "rosa", "grey": "grigio"}


def tiny_pairs() -> list[tuple[str, str]]:
    """225 phrases with a right translation, and five that teach the model to repeat itself."""
    pairs = [
        (f"{n} {c} {s} on a {g} background", f"{NUMBERS[n]} {NOUNS[s]} {COLOURS[c]} su sfondo {GROUNDS[g]}")
        for n, c, s, g in product(NUMBERS, COLOURS, NOUNS, GROUNDS)
    ]
    pairs += [(f"{n} {c} {s}", f"{NUMBERS[n]} {NOUNS[s]} {COLOURS[c]}") for n, c, s in product(NUMBERS, COLOURS, NOUNS)]
    pairs += [(f"{word} again and again", " ".join([COLOURS[word]] * 8)) for word in COLOURS]
    random.Random(1).shuffle(pairs)
    return pairs


@pytest.fixture(scope="session")
def tiny_tsv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pairs") / "pairs.tsv"
    path.write_text("".join(f"{source}\t{target}\n" for source, target in tiny_pairs()), encoding="utf-8")
    return path


@pytest.fixture
def told(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Called with a command, gives its output, or the error of another exit code; that of 1 is one line, and all."""

    def call(words: Sequence[str], code: int = 0) -> str:
        capsys.readouterr()
        assert main(list(words)) == code
        captured = capsys.readouterr()
        assert code != 1 or (captured.out, captured.err.count("\n")) == ("", 1)
        return captured.err if code else captured.out

    return call


class Shouter:
    """Translates into capitals; remembers what it was asked, and may fail at a caption."""

    fingerprint, from_code, to_code = "shouter:en-it:1", "en", "it"

    def __init__(self, *, max_chunk_size: int | None = None, fails_at: str | None = None) -> None:
        self.max_chunk_size, self.fails_at = max_chunk_size, fails_at
        self.asked: list[list[str]] = []

    def translate(self, captions: Sequence[str], on_done: Callable[[int], object] | None = None) -> list[Translation]:
        if self.fails_at in captions:
            raise TransientError("the engine is out of breath")
        self.asked.append(list(captions))
        (on_done or bool)(len(captions))
        # No score where nothing was translated, as with the real engines.
        return [Translation(text=text.upper(), score=-0.5 if text.strip() else None) for text in captions]


@pytest.fixture(scope="session")
def shouter() -> type[Shouter]:
    return Shouter


class Page(HTMLParser):
    """What a browser finds: tags with their attributes, the text of scripts and styles, and the texts that it shows."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.inline: dict[str, list[str]] = defaultdict(list)
        self.texts: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.inline[tag].append("")

    def handle_data(self, data: str) -> None:
        if self.cdata_elem:
            self.inline[self.cdata_elem][-1] += data
        elif data.strip():
            self.texts.append(data)

    def policy(self) -> str | None:
        (policy,) = [attributes["content"] for _, attributes in self.tags if "http-equiv" in attributes]
        return policy


@pytest.fixture(scope="session")
def page() -> type[Page]:
    return Page


class DeepLServer(LoopbackServer):
    """Speaks DeepL's /v2/translate with its documented limits, and keeps the requests.

    `trouble` is what becomes of the next requests: a status, something to do with the handler, or None.
    """

    def __init__(self, key: str) -> None:
        super().__init__(_DeepLHandler)
        self.key = key
        self.character_limit, self.num_billed = 10_000_000, 0
        self.trouble: deque[int | Callable[[_DeepLHandler], None] | None] = deque()
        self.bodies: list[dict[str, Any]] = []

    @property
    def texts(self) -> list[list[str]]:
        return [body["text"] for body in self.bodies]


class _DeepLHandler(LoopbackHandler):
    protocol_version = "HTTP/1.1"
    server: DeepLServer

    def do_POST(self) -> None:
        size = int(self.headers["Content-Length"])
        body = json.loads(self.rfile.read(size))
        self.server.bodies.append(body)
        trouble = self.server.trouble.popleft() if self.server.trouble else self._refusal(body, size)
        if callable(trouble):
            trouble(self)
        elif trouble is not None:
            self.reply(trouble, {"message": f"trouble {trouble}"})
        else:
            self.reply(200, {"translations": [self._translation(text) for text in body["text"]]})

    def _refusal(self, body: dict[str, Any], size: int) -> int | None:
        if self.path != "/v2/translate":
            return 404
        if self.headers["Authorization"] != f"DeepL-Auth-Key {self.server.key}":
            return 403
        if size > 128 * 1024 or len(body["text"]) > 50:
            return 413
        needed = sum(map(len, body["text"]))
        return 456 if self.server.num_billed + needed > self.server.character_limit else None

    def _translation(self, text: str) -> dict[str, Any]:
        self.server.num_billed += len(text)
        return {"detected_source_language": "EN", "text": f"<{text}>", "billed_characters": len(text)}

    def reply(self, status: int, reply: Any) -> None:
        self.answer(status, reply if isinstance(reply, bytes) else json.dumps(reply).encode())


@pytest.fixture
def deepl_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[DeepLServer]:
    """The server, up, with its address and key in the environment; DeepL's client retries nothing."""
    deepl = pytest.importorskip("deepl")
    for name in ("max_network_retries", "min_connection_timeout"):  # set by the engine: put back afterwards
        monkeypatch.setattr(deepl.http_client, name, getattr(deepl.http_client, name))
    monkeypatch.setattr("translation.engines.deepl_engine.MAX_RETRIES", 0)
    with DeepLServer("a-5ecret-key:fx") as server:
        monkeypatch.setenv("DEEPL_AUTH_KEY", server.key)
        monkeypatch.setenv("DEEPL_SERVER_URL", server.url())
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        yield server

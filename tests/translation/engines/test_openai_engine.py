"""The engine `openai` beside a server on loopback that knows the protocol, and misbehaves."""

import json
import logging
import re
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from loopback import LoopbackHandler, LoopbackServer

from data_catalog.base.errors import InputError, PipelineError, SettingsError, TransientError
from data_catalog.base.language_pack import LanguagePack
from translation.config import TranslateConfig
from translation.engines.registry import open_translator, reverse
from translation.memory import MemoryTranslator, TranslationMemory

EN, IT = LanguagePack(code="en", name="English"), LanguagePack(code="it", name="Italian")
KEY = "sk-5ecret"
CAPTIONS = ["a dog", "two cats", "a red house", "a man runs"]
ITALIAN = [caption.upper() for caption in CAPTIONS]


class Model(LoopbackServer):
    """Translates into capitals; `trouble` is what becomes of the next requests, None for the usual."""

    def __init__(self) -> None:
        super().__init__(Handler)
        self.trouble: deque[Callable[[Any, list[str]], None] | None] = deque()
        self.bodies: list[dict[str, Any]] = []
        self.heads: list[dict[str, str]] = []

    @property
    def asked(self) -> list[int]:
        return [len(body["messages"][-1]["content"].split("\n")) for body in self.bodies]


class Handler(LoopbackHandler):
    protocol_version = "HTTP/1.1"
    server: Model

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.bodies.append(body)
        self.server.heads.append({**self.headers, "path": self.path})
        lines = body["messages"][-1]["content"].upper().split("\n")
        trouble = self.server.trouble.popleft() if self.server.trouble else None
        (trouble or say())(self, lines)


def say(change: Callable[[list[str]], Any] = "\n".join, finish: str = "stop", usage: Any = None) -> Any:
    """Answer with the lines, changed."""

    def answer(handler: Any, lines: list[str]) -> None:
        choice = {"message": {"role": "assistant", "content": change(lines)}, "finish_reason": finish}
        handler.answer(200, json.dumps({"choices": [choice], "usage": usage or {"total_tokens": 50}}).encode())

    return answer


def refuse(status: int, body: Any = b"", **headers: str) -> Any:
    return lambda handler, lines: handler.answer(status, body, **headers)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Model]:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with Model() as server:
        yield server


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that the engine would have waited."""
    found: list[float] = []
    monkeypatch.setattr("translation.engines.openai_engine.sleep", found.append)
    return found


@pytest.fixture
def engine(server: Model) -> Any:
    """`engine(**settings)`: the engine that asks the server."""
    return lambda **settings: opened(server.url("/v1"), **settings)


def opened(url: str, **settings: Any) -> Any:
    config = TranslateConfig(**{"engine": "openai", "model": ("tiny",), "base_url": url, "timeout_s": 60.0, **settings})
    return open_translator(config, [EN, IT], cache_dir=Path("unused"))


def texts(engine: Any, captions: list[str] = CAPTIONS) -> list[str]:
    return [found.text for found in engine.translate(captions)]


def test_captions_are_numbered_lines_in_requests_of_a_few(server: Model, engine: Any, tmp_path: Path) -> None:
    (tmp_path / "terms.tsv").write_text("Dog\tcane\n\ncat\tgatto\nzebra\tzebra\n", encoding="utf-8")
    asking, done = engine(max_chunk_size=3, glossary=str(tmp_path / "terms.tsv"), settings={"seed": 7}), list[int]()
    found = asking.translate(["a  dog\n runs", "", "two cats", "a house", "a tree", "two cats"], done.append)
    assert [each.text for each in found] == ["A DOG RUNS", "", "TWO CATS", "A HOUSE", "A TREE", "TWO CATS"]
    assert {each.score for each in found} == {None}
    assert sum(done) == 6
    first, second = server.bodies
    assert first["messages"][1]["content"] == "1. a dog runs\n2. two cats\n3. a house"
    system = [body["messages"][0]["content"] for body in server.bodies]
    assert system[0].startswith("Translate captions of images from English to Italian.\nEach line")
    assert system[0].endswith("\nDog\tcane\ncat\tgatto")
    assert "\t" not in system[1], "no term of the glossary occurs in it"
    assert (first["model"], first["temperature"], first["seed"], first["stream"]) == ("tiny", 0, 7, False)
    assert 256 < second["max_tokens"] < 1_000
    assert {(head["Authorization"], head["path"]) for head in server.heads} == {
        (f"Bearer {KEY}", "/v1/chat/completions")
    }


WRONG_COUNTS = {
    "one too few": lambda lines: "\n".join(lines[:-1]),
    "one too many": lambda lines: "\n".join([*lines, f"{len(lines) + 1}. AND"]),
    "no numbers": lambda lines: "\n".join(line.partition(" ")[2] for line in lines),
    "other order": lambda lines: "\n".join(lines[::-1]),
    "twice the same": lambda lines: "\n".join([lines[0], lines[0], *lines[2:]]),
    "chatter": lambda lines: "\n".join(["Sure! Here you are:", *lines]),
    "nothing": lambda lines: "",
    "no text": lambda lines: None,
}


@pytest.mark.parametrize("change", WRONG_COUNTS.values(), ids=WRONG_COUNTS)
def test_an_answer_without_the_numbers_is_asked_for_in_halves(change: Any, server: Model, engine: Any) -> None:
    server.trouble.append(say(change))
    assert texts(engine()) == ITALIAN
    assert server.asked == [4, 2, 2]


@pytest.mark.parametrize("finish", ["length", "content_filter"])
def test_an_answer_that_is_cut_off_is_none_though_its_numbers_fit(finish: str, server: Model, engine: Any) -> None:
    server.trouble.append(say(lambda lines: "\n".join(lines)[:-3], finish))
    assert texts(engine()) == ITALIAN
    assert server.asked == [4, 2, 2]


def test_a_caption_without_an_answer_has_none_but_a_model_that_never_numbers_is_an_error(
    server: Model, engine: Any, caplog: pytest.LogCaptureFixture
) -> None:
    refusing = say(lambda lines: "I cannot help with that")
    server.trouble.extend([refusing, None, refusing, refusing])
    assert texts(engine()) == [*ITALIAN[:2], "", ITALIAN[3]]
    assert "'a red house'" in caplog.text
    server.trouble.extend([refusing] * 20)
    with pytest.raises(InputError, match=r"cannot help.*translate\.model"):
        texts(engine())
    assert len(server.trouble) == 14, "it gave up after three captions"


def test_an_empty_translation_is_one(server: Model, engine: Any) -> None:
    server.trouble.append(say(lambda lines: "\n\n".join([lines[0], "2.", " 3)  A\tB ", "4: C"])))
    assert texts(engine()) == ["A DOG", "", "A B", "C"]


def test_what_may_pass_is_asked_again_after_the_time_that_the_server_names(
    server: Model, engine: Any, waits: list[float]
) -> None:

    def break_off(handler: Any, lines: list[str]) -> None:
        handler.answer(200, b'{"choices": [', 500)
        handler.close_connection = True

    server.trouble.extend([refuse(429, Retry_After="7"), refuse(500), refuse(503, Retry_After="later"), break_off])
    assert texts(engine()) == ITALIAN
    assert waits == [7.0, 2.0, 4.0, 8.0]
    server.trouble.append(refuse(429, Retry_After="86400"))
    with pytest.raises(TransientError, match="HTTP 429"):
        texts(engine())
    server.trouble.extend([refuse(503, b"busy")] * 6)
    with pytest.raises(TransientError, match="HTTP 503, busy"):
        texts(engine())
    assert waits[4:] == [1.0, 2.0, 4.0, 8.0, 16.0]


def test_answers_before_a_failure_are_kept(server: Model, engine: Any, waits: list[float], tmp_path: Path) -> None:
    asking = engine()
    server.trouble.extend([say(WRONG_COUNTS["nothing"]), None, refuse(429, Retry_After="999")])
    with pytest.raises(TransientError):
        texts(asking)
    assert texts(asking) == ITALIAN
    assert server.asked == [4, 2, 2, 2]
    remembering = MemoryTranslator(engine(max_chunk_size=2), TranslationMemory(tmp_path, asking.fingerprint))
    server.trouble.extend([None, refuse(400)])
    with pytest.raises(InputError):
        texts(remembering)
    assert texts(remembering) == ITALIAN
    assert server.asked[4:] == [2, 2, 2]


REFUSALS: dict[str, tuple[Any, type[PipelineError], str]] = {
    "401": (refuse(401, b'{"error": "wrong key sk-5ecret"}'), SettingsError, "OPENAI_API_KEY"),
    "403": (refuse(403), SettingsError, "OPENAI_API_KEY"),
    "404": (refuse(404, b"no such model"), InputError, r"no such model.*translate\.base_url.*/v1"),
    "no credit": (
        refuse(
            429, b'{"error": {"message": "' + b"You exceeded your quota. " * 20 + b'", "code": "insufficient_quota"}}'
        ),
        InputError,
        "pay for more",
    ),
    "redirect": (refuse(307, Location="http://127.0.0.1:9/v1"), InputError, "redirected to 'http://127.0.0.1:9/v1'"),
    "no JSON": (refuse(200, b"<html>sign in</html>"), InputError, "<html>sign in"),
    "cut JSON": (refuse(200, b'{"choices": [{"message": {"cont'), InputError, "protocol"),
    "deep JSON": (refuse(200, b"[" * 200_000), InputError, "protocol"),
    "list": (refuse(200, b"[]"), InputError, "protocol"),
    "no choice": (refuse(200, b'{"choices": []}'), InputError, "protocol"),
    "number": (say(lambda lines: 7), InputError, "protocol"),
    "giant": (refuse(200, b" " * 1_000_001), InputError, "more than 1,000,000 bytes"),
    "NUL": (say(lambda lines: "\n".join(lines).replace("DOG", "\0")), InputError, "NUL"),
    "surrogate": (say(lambda lines: "\n".join(lines).replace("DOG", "\ud800")), InputError, "surrogate"),
}


@pytest.mark.parametrize("trouble", REFUSALS)
def test_what_will_not_pass_ends_the_run_in_one_line(
    trouble: str, server: Model, engine: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    reply, error, message = REFUSALS[trouble]
    server.trouble.append(reply)
    with pytest.raises(error, match=message) as raised:
        texts(engine())
    assert type(raised.value) is error
    assert "\n" not in str(raised.value)
    assert server.asked == [4], "not asked again, nor elsewhere"
    assert "5ecret" not in caplog.text + "".join(traceback.format_exception(raised.value))


def test_a_server_that_never_answers_and_one_that_drips(
    server: Model, engine: Any, waits: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("translation.engines.openai_engine.MAX_RETRIES", 1)

    def drip(handler: Any, lines: list[str]) -> None:
        handler.answer(200, b"{", 500)
        while not handler.server.stopping.wait(0.05):
            handler.wfile.write(b" ")

    def drip_headers(handler: Any, lines: list[str]) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nX-Long: ")
        while not handler.server.stopping.wait(0.05):
            handler.wfile.write(b"a")

    for silence in (lambda handler, lines: handler.server.stopping.wait(20), drip, drip_headers):
        server.trouble.extend([silence] * 2)
        asking = engine(timeout_s=0.3)
        with pytest.raises(TransientError, match=r"0\.3 s \(translate\.timeout_s\)"):
            texts(asking)
        assert asking.engine.budget.spent > 2 * 256, "each may have been served"


def test_nothing_listens(waits: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with LoopbackServer(LoopbackHandler) as gone:
        url = gone.url("/v1")
    with pytest.raises(TransientError, match="gives no answer"):
        texts(opened(url))


def test_tokens_are_bounded_as_the_server_counts_them(server: Model, engine: Any) -> None:
    asking = engine(max_tokens=5_400, max_chunk_size=2)
    server.trouble.extend([say(usage={"total_tokens": 5_000}), None])
    with pytest.raises(SettingsError, match=r"^5,000 tokens .*next 2 captions.* translate\.max_tokens is 5,400"):
        texts(asking)
    assert server.asked == [2]
    server.trouble.clear()
    for lie in ({"total_tokens": -9}, {"total_tokens": True}, {"other": 1}, [1]):
        asking = engine()
        server.trouble.append(say(usage=lie))
        texts(asking)
        assert asking.engine.budget.spent > 256, "then by the size of the request"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        *(
            ({"base_url": url}, "translate.base_url")
            for url in (
                "",
                "http://example.org/v1",
                "127.0.0.1/v1",
                "https://a:b@example.org",
                "http://127.0.0.1:99999",
            )
        ),
        ({"model": ()}, "translate.model is missing: give its name on the server"),
        ({"pivot": "ca"}, "translate.pivot"),
        ({"settings": {"stream": True}}, "translate.settings.stream"),
        *(({"settings": {"x": [value]}}, "translate.settings: ") for value in (date(2026, 1, 1), float("nan"))),
        ({"glossary": "no-such.tsv"}, "no-such.tsv cannot be read"),
        ({"glossary": __file__}, "line 1 of "),
    ],
)
def test_wrong_settings_are_named_before_work(settings: dict[str, Any], message: str, server: Model) -> None:
    with pytest.raises(PipelineError, match=re.escape(message)):
        opened(server.url("/v1"), **settings)


def test_the_key_stays_in_the_environment(server: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")  # which would see what is sent to this machine
    monkeypatch.setenv("OPENAI_API_KEY", "")
    assert texts(opened(server.url("/v1"))) == ITALIAN
    assert "Authorization" not in server.heads[0]
    with pytest.raises(SettingsError, match="OPENAI_API_KEY"):
        opened("https://example.org/v1")
    monkeypatch.setenv("OPENAI_API_KEY", "5ecret 5ecret")
    with pytest.raises(SettingsError, match="OPENAI_API_KEY") as raised:
        opened("https://example.org/v1")
    assert "5ecret" not in "".join(traceback.format_exception(raised.value))


def test_the_fingerprint_names_what_decides_the_text(
    server: Model, engine: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    first = engine().fingerprint
    assert re.fullmatch(r"openai:en-it:[0-9a-f]{12}", first)
    (tmp_path / "terms.tsv").write_text("dog\tcane\n", encoding="utf-8")
    changes: list[dict[str, Any]] = [
        {"model": ("large",)},
        {"prompt": "Translate to {to}, politely."},
        {"glossary": str(tmp_path / "terms.tsv")},
        {"settings": {"temperature": 1}},
        {"version": "2"},
    ]
    found = [first, *(engine(**change).fingerprint for change in changes), opened("https://example.org/v1").fingerprint]
    assert len(set(found)) == 7
    (tmp_path / "terms.tsv").write_text("dog\tcagnolino\n", encoding="utf-8")
    assert engine(glossary=str(tmp_path / "terms.tsv")).fingerprint not in found
    monkeypatch.setenv("OPENAI_API_KEY", "another")
    same = {"timeout_s": 7.0, "max_tokens": 7, "max_chunk_size": 7}
    assert engine(**same).fingerprint == first


def test_the_way_back_uses_the_same_model_and_no_glossary(tmp_path: Path) -> None:
    config = TranslateConfig(engine="openai", model=("tiny",), base_url="x", glossary="terms.tsv", round_trip=True)
    back = reverse(config)
    assert (back.model, back.glossary) == (("tiny",), "")

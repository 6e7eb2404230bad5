"""The DeepL engine over real sockets: what it demands, sends and pays for, what becomes of trouble, and its key."""

import json
import logging
import sys
import traceback
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_catalog.base.errors import InputError, PipelineError, SettingsError, TransientError
from data_catalog.base.language_pack import LanguagePack
from translation.config import TranslateConfig
from translation.engine import translate_stream
from translation.engines.answers import CheckedTranslator
from translation.engines.deepl_engine import request_batches
from translation.engines.registry import open_translator
from translation.memory import MemoryTranslator, TranslationMemory

EN, IT, DE = (LanguagePack.minimal(code) for code in ("en", "it", "de"))
CALLED = {"it": "IT", "en": "EN-US", "pt": "PT-PT", "zh": "ZH-HANS", "no": "NB"}
PACKS = [(LanguagePack.minimal(code), called) for code, called in CALLED.items()]


def engine(source: LanguagePack = EN, target: LanguagePack = IT, **settings: Any) -> Any:
    opened = open_translator(TranslateConfig(engine="deepl", **settings), [source, target], cache_dir=Path("unused"))
    assert isinstance(opened, CheckedTranslator)
    return opened


def texts(translator: Any, captions: list[str]) -> list[str]:
    return [found.text for found in translator.translate(captions)]


def test_each_distinct_caption_is_sent_once_and_blank_ones_never(deepl_server: Any) -> None:
    done, translator = list[int](), engine()
    captions = ["a dog", "", "a cat", " \n\u3000", "a dog", "a cat "]
    found = translator.translate(captions, done.append)
    assert [item.text for item in found] == ["<a dog>", "", "<a cat>", "", "<a dog>", "<a cat >"]
    assert all(item.score is None and not item.truncated for item in found)
    assert deepl_server.texts == [["a dog", "a cat", "a cat "]]
    assert sum(done) == len(captions)
    assert translator.engine.budget.spent == deepl_server.num_billed == len("a doga cata cat ")
    assert texts(engine(max_characters=1), ["", "  "]) == ["", ""]
    body = deepl_server.bodies.pop()
    asked = {"split_sentences": "nonewlines", "preserve_formatting": True, "model_type": "quality_optimized"}
    assert asked.items() <= body.items()
    assert deepl_server.bodies == [], "nothing to translate is no request"


@given(st.lists(st.text(st.sampled_from('a猫😀\n"'), max_size=6000), max_size=70))
@settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
def test_batches_keep_every_text_and_both_limits(captions: list[str]) -> None:
    # In the client's JSON a Chinese character takes six bytes, an emoji twelve.
    batches = list(request_batches(captions))
    assert [text for batch in batches for text in batch] == captions
    assert all(1 <= len(batch) <= 50 and len(json.dumps(batch)) < 128 * 1024 - 500 for batch in batches)


def test_a_caption_that_no_request_can_hold_is_left_out_aloud(deepl_server: Any, caplog: Any) -> None:
    assert texts(engine(), ["a cat", "猫" * 22_000]) == ["<a cat>", ""]
    assert deepl_server.texts == [["a cat"]]
    assert "22000 characters" in caplog.text


def test_nothing_is_sent_beyond_the_cap_and_the_error_says_what_to_raise(deepl_server: Any) -> None:
    translator = engine(max_characters=10)
    assert texts(translator, ["a dog", "", "🐶" * 5])[1] == ""  # five code points, whatever they weigh
    with pytest.raises(SettingsError, match=r"^10 characters .* need 3, .*max_characters"):
        translator.translate(["a", "", "b?", "a"])
    assert translator.engine.budget.spent == deepl_server.num_billed == 10
    assert len(deepl_server.bodies) == 1


@pytest.mark.parametrize("stop", ["cap", "quota"])
def test_what_was_paid_for_before_a_stop_is_kept(deepl_server: Any, tmp_path: Path, stop: str) -> None:
    captions = [f"caption {number:03d}" for number in range(230)]
    total = sum(map(len, captions))
    memory = TranslationMemory(tmp_path, engine().fingerprint)

    def run(cap: int, quota: int) -> list[str]:
        deepl_server.character_limit = quota
        translator = MemoryTranslator(engine(max_characters=cap), memory)
        return [found.text for found in translate_stream(translator, captions)]

    with pytest.raises(PipelineError, match=r"inished translations are kept$"):
        run(*((total // 2, total) if stop == "cap" else (total, total // 2)))
    assert len(memory.known(captions)) == 100
    assert run(total, total) == [f"<{caption}>" for caption in captions]
    assert deepl_server.num_billed == total


def test_what_is_retried_is_paid_for_once(deepl_server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    captions = [f"{number}{'猫' * 10_000}" for number in range(5)]
    translator = engine(max_characters=sum(map(len, captions)))
    deepl_server.trouble.extend([None, 503])
    with pytest.raises(TransientError):  # half way through a chunk
        translator.translate(captions)
    done: list[int] = []
    found = translator.translate(captions, done.append)
    assert [item.text for item in found] == [f"<{caption}>" for caption in captions]
    assert sum(done) == len(captions)
    assert deepl_server.num_billed == translator.engine.budget.spent == sum(map(len, captions))
    monkeypatch.setattr("translation.engines.deepl_engine.MAX_RETRIES", 1)
    deepl_server.trouble.append(429)
    assert texts(engine(max_characters=5), ["a dog"]) == ["<a dog>"]


REFUSALS = {
    **dict.fromkeys((400, 413), (InputError, "trouble")),
    **dict.fromkeys((401, 403), (SettingsError, "DEEPL_AUTH_KEY")),
    **dict.fromkeys((429, 503, 529), (TransientError, "status")),
    456: (InputError, "no characters left"),
}


@pytest.mark.parametrize("status", REFUSALS)
def test_refusals_say_what_to_do_and_cost_nothing(deepl_server: Any, status: int) -> None:
    deepl_server.trouble.append(status)
    translator, (error, message) = engine(), REFUSALS[status]
    with pytest.raises(error, match=message):
        translator.translate(["a dog"])
    assert translator.engine.budget.spent == deepl_server.num_billed == 0
    assert texts(translator, ["a dog"]) == ["<a dog>"]


@pytest.mark.parametrize("hangs", [True, False])
def test_a_request_without_an_answer_is_transient_and_counts_as_paid(
    hangs: bool, deepl_server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("translation.engines.deepl_engine.TIMEOUT_S", 0.1)  # the client makes it a second

    def stay_silent(handler: Any) -> None:
        if hangs:
            handler.server.stopping.wait(20)
        handler.close_connection = True

    deepl_server.trouble.append(stay_silent)
    translator = engine(max_characters=9)
    for error, message in ((TransientError, "does not answer"), (SettingsError, "max_characters")):
        with pytest.raises(error, match=message):
            translator.translate(["a dog"])
        assert translator.engine.budget.spent == 5


STRANGE = [b"<html>sign in to the network</html>", [], *({"translations": what} for what in (None, ["<a>", "<b>"]))]
TOLD = [
    {"translations": [{"text": text, "billed_characters": 1}] * number}
    for text, number in (("x", 1), ("x", 3), (7, 2), ("\0", 2))
]


@pytest.mark.parametrize("reply", [*STRANGE, *TOLD])
def test_a_strange_reply_is_an_error_never_a_misaligned_translation(reply: Any, deepl_server: Any) -> None:
    deepl_server.trouble.append(lambda handler: handler.reply(200, reply))
    with pytest.raises(InputError, match=r"DEEPL_SERVER_URL|DeepL returned"):
        engine().translate(["a dog", "a cat"])


def test_without_the_client_the_error_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "deepl", None)
    with pytest.raises(InputError, match=r"pip install 'deepl<2,>=1.29'"):
        engine()


@pytest.mark.parametrize("url", ["http://example.org", "ftp://127.0.0.1", "api.deepl.com", "http://[::1"])
def test_the_key_is_not_sent_in_the_clear(deepl_server: Any, monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("DEEPL_SERVER_URL", url)
    with pytest.raises(SettingsError, match="DEEPL_SERVER_URL"):
        engine()


@pytest.mark.parametrize(("pack", "code"), [*PACKS, (replace(EN, deepl="en-gb"), "EN-GB")])
def test_languages_are_called_as_deepl_calls_them(deepl_server: Any, pack: LanguagePack, code: str) -> None:
    engine(DE, pack).translate(["ein Hund"])
    engine(pack, DE).translate(["a dog"])
    there, back = deepl_server.bodies
    assert (there["source_lang"], there["target_lang"]) == ("DE", code)
    assert (back["source_lang"], back["target_lang"]) == (code.split("-")[0], "DE")


def test_a_language_that_deepl_lacks_is_found_before_work(deepl_server: Any) -> None:
    klingon = LanguagePack.minimal("tlh")
    unclear = LanguagePack(code="en", deepl="EN")
    for source, target, message in ((EN, klingon, "to 'TLH'"), (klingon, IT, "from 'TLH'"), (IT, unclear, "to 'EN'")):
        with pytest.raises(SettingsError, match=message):
            engine(source, target)


def test_the_fingerprint_tells_what_decides_the_text_and_nothing_else(deepl_server: Any, monkeypatch: Any) -> None:
    first = engine().fingerprint
    assert first.startswith("deepl:en-it:")
    assert engine(IT, replace(EN, deepl="EN-GB")).fingerprint != engine(IT, EN).fingerprint
    monkeypatch.setenv("DEEPL_AUTH_KEY", "another-key")
    monkeypatch.setenv("DEEPL_SERVER_URL", "https://api.deepl.com")
    assert engine(max_characters=7).fingerprint == first


def test_the_key_is_nowhere_to_be_seen(deepl_server: Any, monkeypatch: Any, caplog: Any) -> None:
    monkeypatch.setenv("DEEPL_AUTH_KEY", f" {deepl_server.key}\r\n")  # blanks around it do no harm
    caplog.set_level(logging.DEBUG)
    caplog.set_level(logging.DEBUG, logger="deepl")
    translator = engine()
    shown = [repr(translator), translator.fingerprint, *texts(translator, ["a dog"])]
    strange = [lambda handler: handler.reply(200, []), lambda handler: setattr(handler, "close_connection", True)]
    for trouble in (400, 403, 404, 413, 418, 456, 503, *strange):
        deepl_server.trouble.append(trouble)
        with pytest.raises(PipelineError) as raised:
            translator.translate(["a bird"])
        shown.extend(traceback.format_exception(raised.value))
    assert {"deepl", "urllib3.connectionpool"} <= {record.name for record in caplog.records}
    assert "a dog" in caplog.text
    assert "5ecret" not in caplog.text + "".join(shown)

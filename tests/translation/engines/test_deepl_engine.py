"""The DeepL engine, asked over real sockets: what it sends, what it pays for, and what becomes of trouble."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_catalog.errors import InputError, PipelineError, SettingsError, TransientError
from data_catalog.language_pack import LanguagePack
from translation.config import TranslateConfig
from translation.engine import Translation, translate_stream
from translation.engines.deepl_engine import DeepLEngine, request_batches
from translation.memory import MemoryTranslator, TranslationMemory
from translation.registry import open_translator

EN, IT = LanguagePack.minimal("en"), LanguagePack.minimal("it")
BODY_LIMIT = 128 * 1024


def engine(source: LanguagePack = EN, target: LanguagePack = IT, **settings: Any) -> DeepLEngine:
    opened = open_translator(TranslateConfig(engine="deepl", **settings), [source, target], cache_dir=Path("unused"))
    assert isinstance(opened, DeepLEngine)
    return opened


def texts(translations: list[Translation]) -> list[str]:
    return [translation.text for translation in translations]


def test_each_distinct_caption_is_sent_once_and_blank_ones_never(deepl_server: Any) -> None:
    done: list[int] = []
    translator = engine()
    captions = ["a dog", "", "a cat", " \n\u3000", "a dog", "a cat "]
    found = translator.translate(captions, done.append)
    assert texts(found) == ["<a dog>", "", "<a cat>", "", "<a dog>", "<a cat >"]
    assert all(translation.score is None and not translation.truncated for translation in found)
    assert deepl_server.texts == [["a dog", "a cat", "a cat "]]
    assert sum(done) == len(captions)
    assert translator.num_characters == deepl_server.num_billed == len("a doga cata cat ")


def test_nothing_to_translate_is_no_request(deepl_server: Any) -> None:
    assert texts(engine(max_characters=1).translate(["", "  ", ""])) == ["", "", ""]
    assert engine().translate([]) == []
    assert deepl_server.bodies == []


def test_requests_are_as_deepl_documents_them(deepl_server: Any) -> None:
    engine(EN, LanguagePack.minimal("pt")).translate(["a dog"])
    (body,) = deepl_server.bodies
    assert body == {
        "text": ["a dog"],
        "source_lang": "EN",
        "target_lang": "PT-PT",
        "split_sentences": "nonewlines",
        "preserve_formatting": True,
        "model_type": "quality_optimized",
        "show_billed_characters": True,  # sent by the client
    }
    (headers,) = deepl_server.headers
    assert headers["Authorization"] == f"DeepL-Auth-Key {deepl_server.key}"
    assert re.fullmatch(r"deepl-python/\S+", headers["User-Agent"])  # nothing of this machine


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(captions=st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=12), max_size=130))
def test_any_texts_come_back_unchanged_and_in_order(deepl_server: Any, captions: list[str]) -> None:
    deepl_server.bodies.clear()
    expected = [f"<{caption}>" if caption.strip() else "" for caption in captions]
    assert texts(engine().translate(captions)) == expected
    sent = [text for batch in deepl_server.texts for text in batch]
    assert sent == [caption for caption in dict.fromkeys(captions) if caption.strip()]
    assert all(len(batch) <= 50 for batch in deepl_server.texts)


@pytest.mark.parametrize(
    "caption",
    ["a 👩‍👩‍👧 at https://example.org/a?b=1&c=%20#d", "two\nlines\tand <b>tags</b> &amp; {braces}", "كلب on a beach"],
)
def test_emoji_urls_markup_and_line_breaks_go_through_as_they_are(deepl_server: Any, caption: str) -> None:
    assert texts(engine().translate([caption])) == [f"<{caption}>"]
    assert deepl_server.texts == [[caption]]


def test_long_captions_of_any_script_fit_the_documented_body(deepl_server: Any) -> None:
    # In the client's JSON a Chinese character takes six bytes, an emoji twelve.
    captions = [f"{number}{letter * 1000}" for number in range(45) for letter in ("猫", "😀", "a")]
    assert texts(engine().translate(captions)) == [f"<{caption}>" for caption in captions]
    assert len(deepl_server.sizes) > 3
    assert max(deepl_server.sizes) <= BODY_LIMIT


@given(st.lists(st.text(st.sampled_from('a猫😀\n"'), max_size=6000), max_size=70))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
def test_batches_keep_every_text_and_both_limits(captions: list[str]) -> None:
    batches = list(request_batches(captions))
    assert [text for batch in batches for text in batch] == captions
    assert all(1 <= len(batch) <= 50 and len(json.dumps(batch)) < BODY_LIMIT - 500 for batch in batches)


def test_a_caption_that_no_request_can_hold_is_left_untranslated_aloud(
    deepl_server: Any, caplog: pytest.LogCaptureFixture
) -> None:
    assert texts(engine().translate(["a cat", "猫" * 22_000])) == ["<a cat>", ""]
    assert deepl_server.texts == [["a cat"]]
    assert "left untranslated: 22000 characters" in caplog.text


def test_nothing_is_sent_beyond_the_cap_and_the_error_says_what_to_raise(deepl_server: Any) -> None:
    translator = engine(max_characters=10)
    translator.translate(["a dog"])
    translator.translate(["", "🐶" * 5])  # five code points, whatever they weigh
    with pytest.raises(
        SettingsError, match=r"^10 characters were sent .* 2 captions need 3, .*max_characters is 10: raise"
    ):
        translator.translate(["a", "", "b?", "a"])
    assert translator.num_characters == deepl_server.num_billed == 10
    assert len(deepl_server.bodies) == 2


@pytest.mark.parametrize("stop", ["cap", "quota"])
def test_what_was_paid_for_before_a_stop_is_kept(deepl_server: Any, tmp_path: Path, stop: str) -> None:
    captions = [f"caption {number:03d}" for number in range(230)]
    total = sum(map(len, captions))
    memory = TranslationMemory(tmp_path, engine().fingerprint)

    def run(max_characters: int) -> list[str]:
        translator = MemoryTranslator(engine(max_characters=max_characters), memory)
        return texts(list(translate_stream(translator, captions)))

    if stop == "quota":
        deepl_server.character_limit = total // 2
    with pytest.raises(PipelineError, match=r"finished translations are kept$"):
        run(total // 2 if stop == "cap" else total)
    assert memory.count() == 100
    deepl_server.character_limit = total
    assert run(total) == [f"<{caption}>" for caption in captions]
    assert deepl_server.num_billed == total


def test_a_retried_429_is_counted_once(deepl_server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("translation.engines.deepl_engine.MAX_RETRIES", 1)
    deepl_server.trouble.append(429)
    translator = engine(max_characters=5)
    assert texts(translator.translate(["a dog"])) == ["<a dog>"]
    assert deepl_server.texts == [["a dog"], ["a dog"]]
    assert translator.num_characters == deepl_server.num_billed == 5


def test_what_deepl_bills_counts_where_it_is_more(deepl_server: Any) -> None:
    def dearer(reply: Any) -> Any:
        reply["translations"][0]["billed_characters"] = 7
        return reply

    deepl_server.distort = dearer
    translator = engine()
    translator.translate(["a dog"])
    assert translator.num_characters == 7


def test_results_of_a_chunk_that_failed_half_way_are_not_paid_for_twice(deepl_server: Any) -> None:
    captions = [f"{number}{'猫' * 10_000}" for number in range(5)]
    translator = engine(max_characters=sum(map(len, captions)))
    deepl_server.trouble.extend([None, 503])
    with pytest.raises(TransientError):
        translator.translate(captions)
    done: list[int] = []
    assert texts(translator.translate(captions, done.append)) == [f"<{caption}>" for caption in captions]
    assert sum(done) == len(captions)
    assert deepl_server.num_billed == translator.num_characters == sum(map(len, captions))


@pytest.mark.parametrize(
    ("status", "error", "message"),
    [
        (400, InputError, "refuses the request: Bad request, message: trouble 400"),
        (401, SettingsError, "the key in the environment variable DEEPL_AUTH_KEY"),
        (403, SettingsError, "the key in the environment variable DEEPL_AUTH_KEY"),
        (404, InputError, "trouble 404"),
        (413, InputError, "trouble 413"),
        (429, TransientError, "status 429"),
        (456, InputError, "used up.*Finished translations are kept"),
        (500, TransientError, "status 500"),
        (503, TransientError, "status 503"),
        (504, TransientError, "status 504"),
        (529, TransientError, "status 529"),
    ],
)
def test_refusals_say_what_to_do_and_cost_nothing(
    deepl_server: Any, status: int, error: type[PipelineError], message: str
) -> None:
    deepl_server.trouble.append(status)
    translator = engine()
    with pytest.raises(error, match=message):
        translator.translate(["a dog"])
    assert translator.num_characters == deepl_server.num_billed == 0
    assert texts(translator.translate(["a dog"])) == ["<a dog>"]


def test_a_wrong_key_is_refused(deepl_server: Any) -> None:
    deepl_server.key = "another key"
    with pytest.raises(SettingsError, match="DEEPL_AUTH_KEY"):
        engine().translate(["a dog"])


def test_a_server_that_is_down_is_transient(deepl_server: Any) -> None:
    translator = engine()
    deepl_server.shutdown()
    deepl_server.server_close()
    with pytest.raises(TransientError, match="does not answer"):
        translator.translate(["a dog"])


@pytest.mark.parametrize("silence", ["hangs", "hangs up"])
def test_a_request_without_an_answer_is_transient_and_counts_as_paid(
    deepl_server: Any, silence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("translation.engines.deepl_engine.TIMEOUT_S", 0.1)  # the client makes it a second

    def stay_silent(handler: Any) -> None:
        if silence == "hangs":
            handler.server.stopping.wait(20)
        handler.close_connection = True

    deepl_server.trouble.append(stay_silent)
    translator = engine(max_characters=9)
    with pytest.raises(TransientError, match="does not answer"):
        translator.translate(["a dog"])
    assert translator.num_characters == 5
    with pytest.raises(SettingsError, match="max_characters"):
        translator.translate(["a dog"])


def first_text(value: object) -> Callable[[Any], Any]:
    def distort(reply: Any) -> Any:
        reply["translations"][0]["text"] = value
        return reply

    return distort


@pytest.mark.parametrize(
    "distort",
    [
        lambda reply: b"<html>sign in to the wireless network</html>",
        lambda reply: b"",
        lambda reply: [],
        lambda reply: {},
        lambda reply: {"translations": None},
        lambda reply: {"translations": ["<a dog>", "<a cat>"]},
        lambda reply: {"translations": [{"text": "<a dog>"}, {"text": "<a cat>"}]},
        lambda reply: {"translations": reply["translations"][:1]},
        lambda reply: {"translations": reply["translations"] * 2},
        first_text(None),
        first_text(7),
    ],
)
def test_a_strange_reply_is_an_error_never_a_misaligned_translation(
    deepl_server: Any, distort: Callable[[Any], Any]
) -> None:
    deepl_server.distort = distort
    with pytest.raises(InputError, match="the server's reply is not DeepL's: check DEEPL_SERVER_URL"):
        engine().translate(["a dog", "a cat"])

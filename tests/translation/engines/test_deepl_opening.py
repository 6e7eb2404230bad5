"""What the DeepL engine demands before work starts, how it calls languages, and that its key is nowhere to be seen."""

import logging
import sys
import traceback
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from data_catalog.errors import InputError, PipelineError, SettingsError
from data_catalog.language_pack import LanguagePack
from translation.config import TranslateConfig
from translation.engines.deepl_engine import DeepLEngine, deepl_code, open_engine

CONFIG = TranslateConfig(engine="deepl")
EN, IT = LanguagePack.minimal("en"), LanguagePack.minimal("it")


def opened(source: LanguagePack = EN, target: LanguagePack = IT, config: TranslateConfig = CONFIG) -> DeepLEngine:
    return open_engine(config, source, target, Path("unused"))


def test_opening_asks_nothing(deepl_server: Any) -> None:
    translator = opened()
    assert (translator.from_code, translator.to_code, translator.max_chunk_size) == ("en", "it", 50)
    assert deepl_server.bodies == []


@pytest.mark.parametrize("environment", [{}, {"DEEPL_AUTH_KEY": ""}, {"DEEPL_AUTH_KEY": "  \n"}])
def test_no_key_is_an_error_that_names_the_variable(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]
) -> None:
    monkeypatch.delenv("DEEPL_AUTH_KEY", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match="set the environment variable DEEPL_AUTH_KEY"):
        opened()


@pytest.mark.parametrize("key", ["s3cret\r\nX-Header: s3cret", "s3cret s3cret", "s3crêt", "s3cret\x7f"])
def test_what_cannot_be_a_key_is_refused_unseen(monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    monkeypatch.setenv("DEEPL_AUTH_KEY", key)
    with pytest.raises(SettingsError, match="DEEPL_AUTH_KEY does not contain a DeepL key") as raised:
        opened()
    assert "s3cr" not in "".join(traceback.format_exception(raised.value))


def test_blanks_around_the_key_do_no_harm(deepl_server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEEPL_AUTH_KEY", f" {deepl_server.key}\r\n")
    assert opened().translate(["a dog"])[0].text == "<a dog>"


def test_without_the_client_the_error_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "deepl", None)
    with pytest.raises(InputError, match=r"pip install -e '\.\[deepl\]'"):
        opened()


@pytest.mark.parametrize("url", ["http://example.org", "ftp://127.0.0.1", "api.deepl.com", "https://", "http://[::1"])
def test_the_key_is_not_sent_in_the_clear(deepl_server: Any, monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("DEEPL_SERVER_URL", url)
    with pytest.raises(SettingsError, match="DEEPL_SERVER_URL"):
        opened()


@pytest.mark.parametrize(
    ("pack", "code"),
    [
        (IT, "IT"),
        (EN, "EN-US"),
        (replace(EN, deepl="en-gb"), "EN-GB"),
        (LanguagePack.minimal("pt"), "PT-PT"),
        (LanguagePack(code="pt", deepl="PT-BR"), "PT-BR"),
        (LanguagePack.minimal("zh"), "ZH-HANS"),
        (LanguagePack(code="zh", deepl="ZH-HANT"), "ZH-HANT"),
        (LanguagePack.minimal("no"), "NB"),
        (LanguagePack(code="es", deepl="ES-419"), "ES-419"),
    ],
)
def test_languages_are_called_as_deepl_calls_them(deepl_server: Any, pack: LanguagePack, code: str) -> None:
    assert deepl_code(pack) == code
    opened(LanguagePack.minimal("de"), pack).translate(["ein Hund"])
    opened(pack, LanguagePack.minimal("de")).translate(["a dog"])
    there, back = deepl_server.bodies
    assert (there["source_lang"], there["target_lang"]) == ("DE", code)
    assert (back["source_lang"], back["target_lang"]) == (code.split("-")[0], "DE")


@pytest.mark.parametrize(
    ("source", "target", "message"),
    [
        (EN, LanguagePack.minimal("tlh"), "to 'TLH': set `deepl`, to DeepL's code, in the language pack tlh.toml"),
        (LanguagePack.minimal("tlh"), IT, "from 'TLH'"),
        (IT, LanguagePack(code="en", deepl="EN"), "to 'EN'"),
        (IT, LanguagePack(code="en", deepl="EN-AU"), "to 'EN-AU'"),
    ],
)
def test_a_language_that_deepl_lacks_is_found_before_work(
    deepl_server: Any, source: LanguagePack, target: LanguagePack, message: str
) -> None:
    with pytest.raises(SettingsError, match=message):
        opened(source, target)


def test_the_fingerprint_tells_what_decides_the_text_and_nothing_else(
    deepl_server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = opened().fingerprint
    assert first.startswith("deepl:en-it:")
    assert len(first.removeprefix("deepl:en-it:")) == 12
    british, american = (opened(IT, replace(EN, deepl=code)).fingerprint for code in ("EN-GB", None))
    assert british != american
    monkeypatch.setenv("DEEPL_AUTH_KEY", "another-key")
    monkeypatch.setenv("DEEPL_SERVER_URL", "https://api.deepl.com")
    assert opened(config=replace(CONFIG, max_characters=7)).fingerprint == first


def test_the_key_is_nowhere_to_be_seen(
    deepl_server: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("translation.engines.deepl_engine.MAX_RETRIES", 1)
    caplog.set_level(logging.DEBUG)
    caplog.set_level(logging.DEBUG, logger="deepl")
    translator = opened()
    shown = [repr(translator), str(translator), translator.fingerprint]
    translator.translate(["a dog"])
    deepl_server.trouble.append(503)
    translator.translate(["a cat"])
    for status in (400, 403, 404, 413, 418, 456):
        deepl_server.trouble.append(status)
        shown.append(failure(translator))
    deepl_server.distort = lambda reply: []
    shown.append(failure(translator))
    deepl_server.shutdown()
    deepl_server.server_close()
    shown.append(failure(translator))
    assert {"deepl", "urllib3.connectionpool"} <= {record.name for record in caplog.records}
    assert "a dog" in caplog.text
    assert "5ecret" not in caplog.text + "".join(shown)


def failure(translator: DeepLEngine) -> str:
    """A failed translation as a traceback prints it, causes included."""
    with pytest.raises(PipelineError) as raised:
        translator.translate(["a bird"])
    return "".join(traceback.format_exception(raised.value))

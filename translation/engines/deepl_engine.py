"""DeepL's web service, through its official client; it costs money.

This is the only module that loads `deepl`. The key is read from the environment variable DEEPL_AUTH_KEY only. The
environment variable DEEPL_SERVER_URL names another server than DeepL's own.
"""

import json
import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from data_catalog.base.errors import InputError, PipelineError, SettingsError, TransientError, install_hint
from data_catalog.base.language_pack import LanguagePack, language_pack_hint
from data_catalog.disk.files import digest
from translation.config import TranslateConfig
from translation.engines.answers import CheckedTranslator
from translation.engines.services import Budget, api_key, secure_url

logger = logging.getLogger(__name__)

# Increase it when requests to DeepL change, apart from options and languages.
ENGINE_VERSION = 1
KEY_VARIABLE, SERVER_VARIABLE = "DEEPL_AUTH_KEY", "DEEPL_SERVER_URL"

# DeepL's documented limits of /v2/translate: 50 texts and 128 KiB for each request.
MAX_REQUEST_TEXTS = 50
MAX_REQUEST_BYTES = 128 * 1024
ROOM_FOR_OPTIONS_BYTES = 1024

# The client retries 429, 5xx and lost connections. Its own time limit is 10 s, but DeepL may charge for a request that
# timed out, and again for each retry, so the limit is 60 s.
MAX_RETRIES = 5
TIMEOUT_S = 60.0

# A caption may have several sentences, but a line break does not end one. Without preserved formatting, phrases would
# get a capital and a full stop. Markup and formality keep DeepL's defaults.
OPTIONS = {"split_sentences": "nonewlines", "preserve_formatting": True, "model_type": "quality_optimized"}

# Targets whose DeepL code is not the upper-cased ISO 639-1 code. DeepL takes "EN" and "PT" as sources only. Most
# caption sets are American, and "PT" meant European Portuguese before DeepL required a variant. `deepl` in a language
# pack sets another code.
TARGETS = {"en": "EN-US", "pt": "PT-PT", "zh": "ZH-HANS", "no": "NB"}
SOURCES_ONLY = frozenset({"EN", "PT"})

STRANGE_REPLY = f"the server's reply is not DeepL's: check {SERVER_VARIABLE} and your proxy"


def open_engine(
    config: TranslateConfig, source: LanguagePack, target: LanguagePack, cache_dir: Path
) -> CheckedTranslator:
    """Return the engine for a pair of languages; no request is made before the first translation."""
    try:
        import deepl
    except ImportError as error:
        raise InputError(f"the engine 'deepl' needs DeepL's client: {install_hint('deepl')}") from error
    key, url = api_key(KEY_VARIABLE), os.environ.get(SERVER_VARIABLE, "").strip()
    languages = {"source_lang": deepl_code(source).partition("-")[0], "target_lang": deepl_code(target)}
    known = {value.upper() for name, value in vars(deepl.Language).items() if name.isupper()}
    for pack, code, possible in zip((source, target), languages.values(), (known, known - SOURCES_ONLY), strict=True):
        if code not in possible:
            raise SettingsError(
                f"DeepL's client cannot translate {'from' if pack is source else 'to'} {code!r}: set `deepl` to "
                f"DeepL's code {language_pack_hint(pack)}, or use another engine"
            )
    if not key:
        raise SettingsError(f"the engine 'deepl' needs a key: set the environment variable {KEY_VARIABLE}")
    deepl.http_client.max_network_retries = MAX_RETRIES
    deepl.http_client.min_connection_timeout = TIMEOUT_S
    # Without a URL, the client chooses one of DeepL's servers by the type of the key.
    server_url = secure_url(url, SERVER_VARIABLE) if url else None
    client = deepl.DeepLClient(key, server_url=server_url, send_platform_info=False)
    what = {"engine": ENGINE_VERSION} | OPTIONS | languages
    fingerprint = f"deepl:{source.code}-{target.code}:{digest(what)[:12]}"
    engine = DeepLEngine(client, languages, fingerprint, config.max_characters)
    return CheckedTranslator(engine, source.code, target.code, name="DeepL")


def deepl_code(pack: LanguagePack) -> str:
    """Return DeepL's code of the language as a target, such as "IT" or "EN-US"; a source's code has no variant."""
    return (pack.deepl or TARGETS.get(pack.code, pack.code)).upper()


class DeepLEngine:
    """A `TextEngine` that uses DeepL.

    DeepL may change its models: the same caption may get another translation next month, under the same fingerprint.
    Builds are repeatable as long as the memory is kept. The budget counts Unicode code points, as DeepL does; a request
    that was refused costs nothing, one without an answer counts, because it may have been served.
    """

    max_chunk_size: int | None = MAX_REQUEST_TEXTS

    def __init__(self, client: Any, languages: dict[str, str], fingerprint: str, max_characters: int) -> None:
        self.fingerprint, self.budget = fingerprint, Budget(max_characters, "characters", "translate.max_characters")
        self._client, self._languages = client, languages

    def require(self, captions: Sequence[str]) -> None:
        """Refuse captions that would exceed the budget."""
        to_send = _short_enough(captions)
        self.budget.require(sum(map(len, to_send)), f"the next {len(to_send)} captions")

    def translate(self, captions: list[str]) -> Iterator[str]:
        """Yield one translation per caption, "" for one that is too long for DeepL."""
        to_send = _short_enough(captions)
        texts = (text for batch in request_batches(to_send) for text in self._send(batch))
        for caption in captions:
            if caption in to_send:
                yield next(texts)  # spaces are DeepL's
                continue
            logger.warning("caption not translated, too long for DeepL (%d characters): %.60r", len(caption), caption)
            yield ""

    def _send(self, texts: list[str]) -> list[str]:
        """Translate the texts of one request."""
        import deepl

        num_characters = sum(map(len, texts))
        try:
            results = self._client.translate_text(texts, **self._languages, **OPTIONS)
            billed = sum(result.billed_characters for result in results)
            translated: list[str] = [result.text for result in results]
            if not all(isinstance(text, str) for text in translated):
                raise TypeError("a translation is not a string")
        except deepl.ConnectionException as error:
            self.budget.spent += num_characters
            if error.should_retry:
                raise TransientError(f"DeepL does not answer: {error}") from error
            raise InputError(f"DeepL cannot be reached, check {SERVER_VARIABLE} and your proxy: {error}") from error
        except deepl.DeepLException as error:
            raise _refused(error) from error
        except (AttributeError, TypeError, ValueError) as error:  # the client does not check replies
            self.budget.spent += num_characters
            raise InputError(f"{STRANGE_REPLY} ({error})") from error
        self.budget.spent += max(num_characters, billed)
        if len(translated) != len(texts):
            raise InputError(f"{STRANGE_REPLY} ({len(texts)} texts were sent, {len(translated)} are in the reply)")
        return translated


def request_batches(texts: Iterable[str]) -> Iterator[list[str]]:
    """Yield the texts in their order, in batches that fit DeepL's requests; each text must fit one."""
    batch: list[str] = []
    num_bytes = 0
    for text in texts:
        size = _body_bytes(text)
        if batch and (len(batch) == MAX_REQUEST_TEXTS or num_bytes + size > MAX_REQUEST_BYTES - ROOM_FOR_OPTIONS_BYTES):
            yield batch
            batch, num_bytes = [], 0
        batch.append(text)
        num_bytes += size
    if batch:
        yield batch


def _body_bytes(text: str) -> int:
    # The client writes JSON in ASCII: a Chinese character takes six bytes, an emoji twelve.
    return len(json.dumps(text)) + len(", ")


def _refused(error: Any) -> PipelineError:
    """Return our error for a `deepl.DeepLException`, by the status of DeepL's answer."""
    status = error.http_status_code or 0
    if status in (401, 403):
        return SettingsError(f"DeepL refuses the key in the environment variable {KEY_VARIABLE}: correct it")
    if status == 456:
        return InputError(
            "your DeepL account has no characters left: raise its limit, or run again in its next period. "
            "Finished translations are kept"
        )
    if status == 429 or status >= 500:
        return TransientError(f"DeepL cannot translate at present (status {status}): {error}")
    return InputError(f"DeepL refuses the request (status {status}): {error}")


def _short_enough(captions: Sequence[str]) -> list[str]:
    return [caption for caption in captions if _body_bytes(caption) <= MAX_REQUEST_BYTES - ROOM_FOR_OPTIONS_BYTES]

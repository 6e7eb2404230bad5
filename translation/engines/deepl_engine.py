"""DeepL's web service as a `translation.engine.Translator`, through its official client; it costs money.

This is the only module that loads `deepl`. The key is read from the environment variable DEEPL_AUTH_KEY only. The
environment variable DEEPL_SERVER_URL names another server than DeepL's own.
"""

import json
import logging
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from data_catalog.base.errors import InputError, PipelineError, SettingsError, TransientError, install_hint
from data_catalog.base.language_pack import LanguagePack, language_pack_hint
from data_catalog.disk.files import digest
from translation.config import TranslateConfig
from translation.engine import Translation
from translation.engines.plugins import text_problem

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

LOOPBACK_HOSTS = frozenset({"127.0.0.1", "::1", "localhost"})


def open_engine(config: TranslateConfig, source: LanguagePack, target: LanguagePack, cache_dir: Path) -> "DeepLEngine":
    """Return the engine for a pair of languages; no request is made before the first translation.

    Args:
        config: settings of the translate step.
        source: the language that the engine reads.
        target: the language that it writes.
        cache_dir: not used, because nothing is unpacked.

    Raises:
        SettingsError: the client does not know both languages, there is no key, or the named server would receive the
            key without encryption.
        InputError: the client is not installed.
    """
    try:
        import deepl
    except ImportError as error:
        raise InputError(f"the engine 'deepl' needs DeepL's client: {install_hint('deepl')}") from error
    source_code, target_code = deepl_code(source).partition("-")[0], deepl_code(target)
    known = {value.upper() for name, value in vars(deepl.Language).items() if name.isupper()}
    for pack, code, possible in ((source, source_code, known), (target, target_code, known - SOURCES_ONLY)):
        if code not in possible:
            raise SettingsError(
                f"DeepL's client cannot translate {'from' if pack is source else 'to'} {code!r}: set `deepl` to "
                f"DeepL's code {language_pack_hint(pack)}, or use another engine"
            )
    deepl.http_client.max_network_retries = MAX_RETRIES
    deepl.http_client.min_connection_timeout = TIMEOUT_S
    client = deepl.DeepLClient(_auth_key(), server_url=_server_url(), send_platform_info=False)
    languages = {"source_lang": source_code, "target_lang": target_code}
    return DeepLEngine(client, languages, config.max_characters, from_code=source.code, to_code=target.code)


def deepl_code(pack: LanguagePack) -> str:
    """Return DeepL's code of the language as a target, such as "IT" or "EN-US"; a source's code has no variant."""
    return (pack.deepl or TARGETS.get(pack.code, pack.code)).upper()


class DeepLEngine:
    """A `translation.engine.Translator` that uses DeepL; it returns no scores.

    DeepL may change its models at any time: the same caption may get another translation next month, under the same
    fingerprint. The translation memory keeps the first one, and builds are repeatable as long as the memory is kept.

    A chunk is one request of 50 captions. So no paid translation is lost when a run stops between two chunks, for
    example because the quota is used up. Only long captions need several requests a chunk; if a later one fails, this
    object keeps the results of the earlier ones for the next try.

    Args:
        client: a `deepl.DeepLClient`.
        languages: `source_lang` and `target_lang` with DeepL's codes.
        max_characters: most characters that this object may send.
        from_code: ISO 639-1 code of the language it reads.
        to_code: ISO 639-1 code of the language it writes.

    Attributes:
        num_characters: characters sent so far and to be paid, in Unicode code points, as DeepL counts. A request that
            DeepL answered with an error costs nothing. A request without an answer counts, because it may have been
            served.
    """

    max_chunk_size = MAX_REQUEST_TEXTS

    def __init__(
        self, client: Any, languages: dict[str, str], max_characters: int, *, from_code: str, to_code: str
    ) -> None:
        self.from_code, self.to_code = from_code, to_code
        what = {"engine": ENGINE_VERSION} | OPTIONS | languages
        self.fingerprint = f"deepl:{from_code}-{to_code}:{digest(what)[:12]}"
        self.max_characters, self.num_characters = max_characters, 0
        self._client, self._languages = client, languages
        self._held: dict[str, str] = {}

    def translate(self, captions: Sequence[str], on_done: Callable[[int], object] | None = None) -> list[Translation]:
        """Return one translation per caption; see `Translator.translate`.

        Equal captions are sent once. Captions that DeepL cannot translate are not sent.

        Raises:
            SettingsError: the captions would exceed `max_characters` (then none is sent), or the key is refused.
            InputError: the account's characters are used up, the request is refused, or too large for the server, or
                the server's reply is not DeepL's.
            TransientError: DeepL is overloaded or cannot be reached, after the client's retries.
        """
        report = on_done or (lambda _: None)
        counts = Counter(captions)
        to_send = [caption for caption in counts if caption not in self._held and _can_be_sent(caption)]
        needed = sum(map(len, to_send))
        if self.num_characters + needed > self.max_characters:
            raise SettingsError(
                f"{self.num_characters:,} characters were sent to DeepL, the next {len(to_send)} captions need "
                f"{needed:,}, and translate.max_characters is {self.max_characters:,}. Increase it and run again; "
                "finished translations are kept"
            )
        report(len(captions) - sum(counts[caption] for caption in to_send))
        for texts in request_batches(to_send):
            self._held.update(zip(texts, self._send(texts), strict=True))
            report(sum(counts[text] for text in texts))
        found = {caption: Translation(text=self._held.pop(caption, "")) for caption in counts}
        return [found[caption] for caption in captions]

    def _send(self, texts: list[str]) -> list[str]:
        """Translate the texts of one request."""
        import deepl

        num_characters = sum(map(len, texts))
        try:
            results = self._client.translate_text(texts, **self._languages, **OPTIONS)
        except deepl.ConnectionException as error:
            self.num_characters += num_characters
            if error.should_retry:
                raise TransientError(f"DeepL does not answer: {error}") from error
            raise InputError(f"DeepL cannot be reached, check {SERVER_VARIABLE} and your proxy: {error}") from error
        except deepl.DeepLException as error:
            raise _refused(error) from error
        except (AttributeError, TypeError, ValueError) as error:  # the client does not check replies
            self.num_characters += num_characters
            raise InputError(f"{STRANGE_REPLY} ({error})") from error
        self.num_characters += max(num_characters, sum(result.billed_characters for result in results))
        translated = [result.text for result in results]
        if len(translated) != len(texts) or not all(isinstance(text, str) for text in translated):
            raise InputError(f"{STRANGE_REPLY} ({len(texts)} texts were sent, {len(translated)} are in the reply)")
        if problem := next(filter(None, map(text_problem, translated)), None):
            raise InputError(f"{STRANGE_REPLY} (a translation contains {problem})")
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


def _can_be_sent(caption: str) -> bool:
    if _body_bytes(caption) > MAX_REQUEST_BYTES - ROOM_FOR_OPTIONS_BYTES:
        logger.warning("caption not translated, %d characters are too many for DeepL: %.60r...", len(caption), caption)
        return False
    return bool(caption.strip())


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
    if status == 413:
        return InputError(f"DeepL finds a request too large: {error}")
    return InputError(f"DeepL refuses the request: {error}")


def _auth_key() -> str:
    key = os.environ.get(KEY_VARIABLE, "").strip()
    if not key:
        raise SettingsError(f"the engine 'deepl' needs a key: set the environment variable {KEY_VARIABLE}")
    if not (key.isascii() and key.isprintable() and " " not in key):
        # It is not valid in an HTTP header, and the client's errors quote headers.
        raise SettingsError(f"the environment variable {KEY_VARIABLE} does not contain a DeepL key: correct it")
    return key


def _server_url() -> str | None:
    """Return the URL of another server than DeepL's own, or None.

    The client chooses one of DeepL's servers by the type of the key.
    """
    url = os.environ.get(SERVER_VARIABLE, "").strip()
    if not url:
        return None
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise SettingsError(f"{SERVER_VARIABLE} is not a URL: {error}") from error
    if parts.hostname and (parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in LOOPBACK_HOSTS)):
        return url.rstrip("/") + "/"
    raise SettingsError(f"{SERVER_VARIABLE} must be an https address, since the key is sent to it, got {url!r}")

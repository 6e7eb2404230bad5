"""DeepL's service as a `translation.engine.Translator`, through its official client; what is sent costs money.

The only module that loads `deepl`. The key is in the environment variable DEEPL_AUTH_KEY and nowhere else;
DEEPL_SERVER_URL names another server than DeepL's own.
"""

import json
import logging
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from data_catalog.errors import InputError, PipelineError, SettingsError, TransientError, install_hint
from data_catalog.language_pack import LanguagePack, language_pack_hint
from data_catalog.storage.shards import digest
from translation.config import TranslateConfig
from translation.engine import Translation

logger = logging.getLogger(__name__)

# Raised whenever we ask DeepL in another way than before, options and languages aside.
ENGINE_VERSION = 1
KEY_VARIABLE, SERVER_VARIABLE = "DEEPL_AUTH_KEY", "DEEPL_SERVER_URL"

# What DeepL documents of /v2/translate: at most 50 texts, and 128 KiB, a request.
MAX_REQUEST_TEXTS = 50
MAX_REQUEST_BYTES = 128 * 1024
ROOM_FOR_OPTIONS_BYTES = 1024

# The client's retries of 429, 5xx and lost connections. Its own time limit is 10 s, but a request that is given up may
# be paid for all the same, and so once more by each retry: 60 s.
MAX_RETRIES = 5
TIMEOUT_S = 60.0

# A caption may be several sentences, but a line break within it ends none. Formatting is preserved, or phrases would
# come back with a capital and a full stop. Markup and formality are left alone.
OPTIONS = {"split_sentences": "nonewlines", "preserve_formatting": True, "model_type": "quality_optimized"}

# Where DeepL's code for a target is not the upper-cased ISO 639-1 code. "EN" and "PT" it takes as sources only: most
# caption sets are American, and "PT" meant European Portuguese until DeepL wanted a variant. The `deepl` of a language
# pack picks another one.
TARGETS = {"en": "EN-US", "pt": "PT-PT", "zh": "ZH-HANS", "no": "NB"}
SOURCES_ONLY = frozenset({"EN", "PT"})

STRANGE_REPLY = f"the server does not answer as DeepL does, check {SERVER_VARIABLE} and your proxy"

LOOPBACK_HOSTS = frozenset({"127.0.0.1", "::1", "localhost"})


def open_engine(config: TranslateConfig, source: LanguagePack, target: LanguagePack, cache_dir: Path) -> "DeepLEngine":
    """The engine for a pair of languages; no request is made before the first translation.

    Args:
        cache_dir: not used, nothing is unpacked.

    Raises:
        SettingsError: the client knows not both languages, there is no key, or the server that is named would be sent
            the key in the clear.
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
                f"DeepL's client cannot translate {'from' if pack is source else 'to'} {code!r}: set `deepl`, to "
                f"DeepL's code, {language_pack_hint(pack)}, or take another engine"
            )
    deepl.http_client.max_network_retries = MAX_RETRIES
    deepl.http_client.min_connection_timeout = TIMEOUT_S
    client = deepl.DeepLClient(_auth_key(), server_url=_server_url(), send_platform_info=False)
    languages = {"source_lang": source_code, "target_lang": target_code}
    return DeepLEngine(client, languages, config.max_characters, from_code=source.code, to_code=target.code)


def deepl_code(pack: LanguagePack) -> str:
    """DeepL's code of the language as a target, such as "IT" or "EN-US"; without its variant it is that of a source."""
    return (pack.deepl or TARGETS.get(pack.code, pack.code)).upper()


class DeepLEngine:
    """A `translation.engine.Translator` that asks DeepL; it tells no scores.

    DeepL changes its models as it likes: the same caption may be translated otherwise next month, under the same
    fingerprint. The translation memory keeps what it said first, and builds are repeatable as long as that is kept.

    A chunk is one request of 50 captions, so that whatever stops a run between two chunks, a spent quota included,
    loses nothing that was paid for. Only long captions need several requests a chunk; if a later one fails, the results
    of those before are held for the next try with this object.

    Args:
        client: a `deepl.DeepLClient`.
        languages: `source_lang` and `target_lang` as DeepL calls them.
        max_characters: most characters that may be sent in the life of this object.
        from_code: ISO 639-1 code of the language it reads.
        to_code: ISO 639-1 code of the language it writes.

    Attributes:
        num_characters: sent so far and to be paid, in Unicode code points, as DeepL counts. A request that DeepL
            answered with an error costs nothing; one without an answer counts, it may have been served.
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
        """See `Translator.translate`; equal captions are sent once, and what DeepL cannot take not at all.

        Raises:
            SettingsError: the captions would pass `max_characters` (then none is sent), or the key is refused.
            InputError: the account's characters are used up, the request is refused, or too large for the server, or
                the server does not answer as DeepL does.
            TransientError: DeepL is overloaded or cannot be reached, after the client's retries.
        """
        report = on_done or (lambda _: None)
        counts = Counter(captions)
        to_send = [caption for caption in counts if caption not in self._held and _can_be_sent(caption)]
        needed = sum(map(len, to_send))
        if self.num_characters + needed > self.max_characters:
            raise SettingsError(
                f"{self.num_characters:,} characters were sent to DeepL, the next {len(to_send)} captions need "
                f"{needed:,}, and translate.max_characters is {self.max_characters:,}: raise it and run again; what "
                "was translated is kept"
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
            raise InputError(f"DeepL cannot be asked, check {SERVER_VARIABLE} and your proxy: {error}") from error
        except deepl.DeepLException as error:
            raise _refused(error) from error
        except (AttributeError, TypeError, ValueError) as error:  # the client trusts the form of replies
            self.num_characters += num_characters
            raise InputError(f"{STRANGE_REPLY}: {error}") from error
        self.num_characters += max(num_characters, sum(result.billed_characters for result in results))
        translated = [result.text for result in results]
        if len(translated) != len(texts) or not all(isinstance(text, str) for text in translated):
            raise InputError(f"{STRANGE_REPLY}: {len(texts)} texts asked, {len(translated)} in the reply")
        return translated


def request_batches(texts: Iterable[str]) -> Iterator[list[str]]:
    """The texts in their order, cut into requests that DeepL takes; each text must fit one."""
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
        logger.warning("left untranslated: %d characters are too many for DeepL: %.60r...", len(caption), caption)
        return False
    return bool(caption.strip())


def _body_bytes(text: str) -> int:
    # As the client writes it: JSON in ASCII, where a Chinese character takes six bytes and an emoji twelve.
    return len(json.dumps(text)) + len(", ")


def _refused(error: Any) -> PipelineError:
    """Return our error for a `deepl.DeepLException`, by the status of DeepL's answer."""
    status = error.http_status_code or 0
    if status in (401, 403):
        return SettingsError(f"DeepL refuses the key in the environment variable {KEY_VARIABLE}: mend it")
    if status == 456:
        return InputError(
            "the characters of your DeepL account are used up: raise its limit or run again in its next period; what "
            "was translated is kept"
        )
    if status == 429 or status >= 500:
        return TransientError(f"DeepL cannot translate just now (status {status}): {error}")
    if status == 413:
        return InputError(f"DeepL finds a request too large: {error}")
    return InputError(f"DeepL refuses the request: {error}")


def _auth_key() -> str:
    key = os.environ.get(KEY_VARIABLE, "").strip()
    if not key:
        raise SettingsError(f"the engine 'deepl' needs a key: set the environment variable {KEY_VARIABLE}")
    if not (key.isascii() and key.isprintable() and " " not in key):
        # It would not fit an HTTP header, and the errors of the client quote headers.
        raise SettingsError(f"the environment variable {KEY_VARIABLE} holds no key of DeepL: mend it")
    return key


def _server_url() -> str | None:
    """Another server than DeepL's own, or None; the client picks that by the kind of the key."""
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

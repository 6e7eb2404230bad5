"""Any server of OpenAI's protocol (`/chat/completions`), in the web or on this machine, as an engine.

The key is read from the environment variable OPENAI_API_KEY only. Captions are sent in batches, as numbered lines. The
server is not trusted: its answer has a size and a time limit, must have exactly the numbers of the captions, in order,
and no redirect is followed.
"""

import json
import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from time import sleep
from typing import TypeVar, cast

from data_catalog.base.boundary import about, one_line
from data_catalog.base.errors import InputError, PipelineError, SettingsError, TransientError
from data_catalog.base.language_pack import LanguagePack
from data_catalog.disk.files import digest
from translation.config import FROM, TO, TranslateConfig
from translation.engines.answers import CheckedTranslator
from translation.engines.services import Budget, api_key, is_loopback, secure_url

logger = logging.getLogger(__name__)

T = TypeVar("T")

# Increase it when requests change, apart from settings and languages.
ENGINE_VERSION = 1
KEY_VARIABLE = "OPENAI_API_KEY"
CAPTIONS_PER_REQUEST = 20
MAX_ANSWER_BYTES = 1_000_000
MAX_RETRIES = 5
FIRST_WAIT_S, LONGEST_WAIT_S = 1.0, 120.0
# Captions in a row without a valid answer, after which the server is at fault, not a caption.
MOST_FAILURES = 3
INSTRUCTIONS = """\
Each line of the input is one caption with its number. Answer with as many lines: the number of the caption, a full \
stop, a space, the translation. Write nothing else, and join or split no captions."""
GLOSSARY = "Use these translations, a term and its translation in each line:"
# Tokens of an answer: some, and more than any language needs for each byte of its captions.
_TOKENS, _TOKENS_PER_BYTE = 256, 2
_BYTES_PER_TOKEN = 3  # of what a server sends no count for
_OURS = ("messages", "model", "stream", "n")
_LINE = re.compile(r"\s*(\d{1,9})[.):]((?:\s.*)?)")
_CUT = ("length", "content_filter")
_SHOWN = 200


class _LaterError(TransientError):
    """A failure that may pass, after the seconds that the server asks for, if it does."""

    def __init__(self, message: str, *, wait_s: float | None = None) -> None:
        super().__init__(message)
        self.wait_s = wait_s


def open_engine(
    config: TranslateConfig, source: LanguagePack, target: LanguagePack, cache_dir: Path
) -> CheckedTranslator:
    """Return the engine over the server that `config.base_url` names; nothing is sent before the first translation."""
    engine = OpenAIEngine(config, source, target)
    return CheckedTranslator(engine, source.code, target.code, name=f"the server {engine.url}")


def _glossary(path: Path) -> list[tuple[str, str]]:
    """Return terms with their translations from a TSV file of two columns."""
    with about(f"translate.glossary: {path} cannot be read"):
        lines = path.read_text(encoding="utf-8").splitlines()
    found = []
    for number, line in enumerate(lines, 1):
        term, tab, translation = line.partition("\t")
        if line.strip():
            if not (tab and term.strip() and translation.strip()) or "\t" in translation:
                raise InputError(f"translate.glossary: line {number} of {path} must be a term, a tab, its translation")
            found.append((term.strip(), translation.strip()))
    return found


class OpenAIEngine:
    """A `TextEngine` over a server of OpenAI's protocol.

    A model may translate a caption otherwise beside other captions, or next month. Builds are repeatable as long as the
    memory is kept. The budget counts tokens as the server does; a request that was refused costs nothing, one without
    an answer counts, because it may have been served.
    """

    def __init__(self, config: TranslateConfig, source: LanguagePack, target: LanguagePack) -> None:
        self.url, self._key = secure_url(config.base_url, "translate.base_url"), api_key(KEY_VARIABLE)
        if not self._key and not is_loopback(self.url):
            raise SettingsError(f"the engine 'openai' needs a key: set the environment variable {KEY_VARIABLE}")
        if taken := sorted(set(_OURS).intersection(config.settings)):
            raise SettingsError(f"translate.settings.{taken[0]} is set by vernaclip: remove it")
        prompt = config.prompt
        for placeholder, pack in ((FROM, source), (TO, target)):
            prompt = prompt.replace(placeholder, pack.name or f"the language with the code {pack.code}")
        self._glossary = _glossary(Path(config.glossary).expanduser()) if config.glossary else []
        what = {
            "engine": ENGINE_VERSION,
            "base_url": self.url,
            "model": config.model,
            "prompt": [prompt, INSTRUCTIONS, GLOSSARY],
            "glossary": self._glossary,
            "settings": config.settings,
            "version": config.version,
        }
        self.fingerprint = f"openai:{source.code}-{target.code}:{digest(what)[:12]}"
        self.max_chunk_size: int | None = config.max_chunk_size or CAPTIONS_PER_REQUEST
        self.budget = Budget(config.max_tokens, "tokens", "translate.max_tokens")
        self._url, self._timeout_s = f"{self.url}chat/completions", config.timeout_s
        self._options = {"model": config.model[0], "temperature": 0, **config.settings}
        self._prompt, self._num_failures = f"{prompt}\n{INSTRUCTIONS}", 0

    def translate(self, captions: list[str]) -> Iterator[str]:
        """Yield one translation per caption, "" for one to which the server gives no valid answer."""
        lines = [f"{number}. {' '.join(caption.split())}" for number, caption in enumerate(captions, 1)]
        content = self._asked(lines)
        found = _numbered(content, len(captions))
        if found is not None:
            self._num_failures = 0
            yield from found
        elif len(captions) > 1:
            middle = len(captions) // 2
            logger.info("the model's answer to %d captions has not their numbers: asked again in halves", len(captions))
            yield from self.translate(captions[:middle])
            yield from self.translate(captions[middle:])
        else:
            self._num_failures += 1
            if self._num_failures >= MOST_FAILURES:
                raise InputError(
                    f"{self._url} answers {self._safe(content)!r} to {lines[0]!r}, not a numbered line: use another "
                    "translate.model, or correct translate.prompt"
                )
            logger.warning("caption not translated, the answer is no numbered line: %.60r", captions[0])
            yield ""

    def _asked(self, lines: Sequence[str]) -> str:
        """Return the model's answer to some captions; retry what may pass."""
        text = "\n".join(lines)
        terms = ["\t".join(entry) for entry in self._glossary if entry[0].lower() in text.lower()]
        system = "\n".join([self._prompt, *([GLOSSARY, *terms] if terms else [])])
        messages = [{"role": "system", "content": system}, {"role": "user", "content": text}]
        most_tokens = _TOKENS + _TOKENS_PER_BYTE * len(text.encode("utf-8", "replace"))
        limit = {} if "max_completion_tokens" in self._options else {"max_tokens": most_tokens}
        body = json.dumps({**limit, **self._options, "messages": messages, "stream": False}).encode()
        needed = most_tokens + len(system + text) // _BYTES_PER_TOKEN
        attempt = 0
        while True:
            self.budget.require(needed, f"the next {len(lines)} captions")
            try:
                return self._content(self._post(body, needed), needed)
            except _LaterError as error:
                wait_s = FIRST_WAIT_S * 2**attempt if error.wait_s is None else error.wait_s
                if attempt == MAX_RETRIES or wait_s > LONGEST_WAIT_S:
                    raise
                logger.info("%s; asked again in %.0f s", error, wait_s)
            sleep(wait_s)
            attempt += 1

    def _post(self, body: bytes, needed: int) -> bytes:
        """Send one request, and return the body of its answer, within the limits of time and size."""
        import httpx

        try:
            status, headers, answer = _within(self._timeout_s, lambda: self._exchange(body))
        except (httpx.TransportError, TimeoutError) as error:
            self.budget.spent += needed  # it may have been served
            is_late = isinstance(error, httpx.TimeoutException | TimeoutError)
            reason = f"within {self._timeout_s:g} s (translate.timeout_s)" if is_late else self._safe(one_line(error))
            raise _LaterError(f"{self._url} gives no answer: {reason}") from error
        if status != 200:
            raise self._refusal(status, headers, answer.decode("utf-8", "replace"))
        return answer

    def _exchange(self, body: bytes) -> tuple[int, Mapping[str, str], bytes]:
        """Return status, headers and body of the answer to a request."""
        import httpx

        headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
        headers |= {"Authorization": f"Bearer {self._key}"} if self._key else {}
        answer = b""
        with about("translate.base_url, or the proxy settings of the environment", kind=SettingsError):
            # A proxy of the environment would get what is sent to this machine.
            client = httpx.Client(timeout=self._timeout_s, follow_redirects=False, trust_env=not is_loopback(self._url))
            request = client.build_request("POST", self._url, content=body, headers=headers)
        with client, closing(client.send(request, stream=True)) as response:
            for piece in response.iter_raw():
                answer += piece
                if len(answer) > MAX_ANSWER_BYTES:
                    raise InputError(f"{self._url} answers with more than {MAX_ANSWER_BYTES:,} bytes")
            return response.status_code, response.headers, answer

    def _refusal(self, status: int, headers: Mapping[str, str], said: str) -> PipelineError:
        """Return our error for an answer of another status than 200."""
        from data_catalog.fetch.client import retry_after_s

        what = f"{self._url} refuses the request (HTTP {status}, {self._safe(said)})"
        if status in (401, 403):
            return SettingsError(f"{what}: correct the key in the environment variable {KEY_VARIABLE}")
        if "insufficient_quota" in said:
            return InputError(f"{what}: pay for more. Finished translations are kept")
        if status in (408, 409, 429) or status >= 500:
            return _LaterError(what, wait_s=retry_after_s(headers.get("retry-after")))
        if 300 <= status < 400:
            place = self._safe(headers.get("location", ""))
            return InputError(f"{self._url} is redirected to {place!r}: correct translate.base_url")
        return InputError(f"{what}: check translate.base_url, which often ends with /v1, model and settings")

    def _content(self, answer: bytes, needed: int) -> str:
        """Return the model's text in an answer, and count its tokens."""
        try:
            found = json.loads(answer)
            choice = found["choices"][0]
            # A text that is cut off counts as none.
            content = choice["message"]["content"] if choice.get("finish_reason") not in _CUT else None
            if not isinstance(content, str | None):
                raise TypeError
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            self.budget.spent += needed
            said = self._safe(answer.decode("utf-8", "replace"))
            raise InputError(f"{self._url} does not answer by OpenAI's protocol: {said}") from error
        usage = found.get("usage")
        counted = usage.get("total_tokens") if isinstance(usage, dict) else None
        self.budget.spent += counted if type(counted) is int and counted > 0 else needed
        return content or ""

    def _safe(self, text: str) -> str:
        """Return the start of a server's text in one line, without the key, which it may repeat."""
        text = " ".join(text.split())
        return (text.replace(self._key, "***") if self._key else text)[:_SHOWN]


def _within(seconds: float, call: Callable[[], T]) -> T:
    """Return the result of a call in a thread of its own, which is left behind if it takes longer.

    A server that sends a byte now and then, of headers too, keeps a client waiting longer than any time limit of reads.
    """
    ended: SimpleQueue[tuple[T | None, BaseException | None]] = SimpleQueue()

    def run() -> None:
        try:
            ended.put((call(), None))
        except BaseException as error:  # noqa: BLE001  raised where the result is waited for
            ended.put((None, error))

    Thread(target=run, daemon=True).start()
    try:
        found, error = ended.get(timeout=seconds)
    except Empty:
        raise TimeoutError from None
    if error is not None:
        raise error
    return cast(T, found)


def _numbered(content: str, num_captions: int) -> list[str] | None:
    """Return the texts of lines that are numbered from 1, or None if one number is missing, wrong or too many."""
    lines = [_LINE.fullmatch(line) for line in content.split("\n") if line.strip()]
    if [line and int(line[1]) for line in lines] != list(range(1, num_captions + 1)):
        return None
    return [" ".join(line[2].split()) for line in lines if line]

"""An engine that is asked only for what no run before has recorded."""

from collections.abc import Callable, Sequence
from pathlib import Path

from data_catalog.errors import DamagedError, SettingsError
from data_catalog.progress import Progress
from data_catalog.storage.disk_errors import make_writable_folder
from translation.engine import STREAM_WINDOW, Translation, Translator, is_paid
from translation.memory import Columns, TranslationMemory


class RememberingTranslator:
    """A `translation.engine.Translator` over another: the memory answers first, and records what the engine says."""

    def __init__(self, engine: Translator, memory: TranslationMemory) -> None:
        self.fingerprint, self.max_chunk_size = engine.fingerprint, engine.max_chunk_size
        self.from_code, self.to_code = engine.from_code, engine.to_code
        self._engine, self._memory = engine, memory

    def translate(self, captions: Sequence[str], on_done: Callable[[int], object] | None = None) -> list[Translation]:
        """See `Translator.translate`; each missing caption is translated once, and recorded before this returns."""
        known = self._memory.known(captions)
        missing = list(dict.fromkeys(caption for caption in captions if caption not in known))
        if on_done is not None:
            on_done(len(captions) - len(missing))
        if missing:
            found = self._engine.translate(missing, on_done)
            self._memory.record(missing, found)
            known.update(zip(missing, found, strict=True))
        return [known[caption] for caption in captions]


def remembering(engine: Translator, memory: Path | None) -> Translator:
    """Return the engine, asked only for what the folder `memory` does not hold; without one, the engine itself.

    Raises:
        SettingsError: a paid engine without a memory.
        DiskError: a folder that cannot be written to.
    """
    if memory is None and is_paid(engine):
        name = engine.fingerprint.partition(":")[0]
        raise SettingsError(
            f"what {name} translates is paid for, and lost if the run stops: give --memory DIR, which keeps it"
        )
    if memory is None:
        return engine
    make_writable_folder(memory, "--memory")
    return RememberingTranslator(engine, TranslationMemory(memory, engine.fingerprint))


def remembered(
    captions: Sequence[str],
    engine: Translator,
    memory: TranslationMemory,
    *,
    title: str,
    where: str,
    window: int = STREAM_WINDOW,
) -> Columns:
    """Return what the memory holds of some captions, after it has recorded what it lacked.

    The distinct captions that it lacks are translated window by window from the front, each recorded at once: a killed
    run goes on with the windows that were left.

    Args:
        captions: with repeats.
        engine: whose memory it is.
        memory: of translations.
        title: what the progress bar says.
        where: the captions are from, as an error says it.
        window: most captions of one; fewer where the engine may lose no more at a crash.

    Raises:
        InputError: the engine cannot work.
        DamagedError: the memory lost a caption that was just recorded.
    """
    missing = memory.missing(captions)
    size = min(window, engine.max_chunk_size or window)
    with Progress(title, total=len(missing), unit="captions") as progress:
        for start in range(0, len(missing), size):
            part = missing[start : start + size]
            memory.record(part, engine.translate(part, progress.advance))
    found = memory.columns(captions)
    if None in found.captions:
        lost = captions[found.captions.index(None)]
        raise DamagedError(f"{where}: the translation memory lost {lost!r}: run the same command again")
    return found

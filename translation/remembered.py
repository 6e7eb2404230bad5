"""An engine that is asked only for what no run before has recorded."""

from collections.abc import Callable, Sequence

from translation.engine import Translation, Translator
from translation.memory import TranslationMemory


class RememberingTranslator:
    """A `translation.engine.Translator` over another: the memory answers first, and records what the engine says."""

    def __init__(self, engine: Translator, memory: TranslationMemory) -> None:
        self.fingerprint, self.max_chunk_size = engine.fingerprint, engine.max_chunk_size
        self.from_code, self.to_code = engine.from_code, engine.to_code
        self._engine, self._memory = engine, memory

    def translate(self, captions: Sequence[str], on_done: Callable[[int], object] | None = None) -> list[Translation]:
        """See `Translator.translate`; each missing caption is translated once, and recorded before this returns."""
        missing = self._memory.missing(captions)
        if on_done is not None:
            on_done(len(captions) - len(missing))
        if missing:
            self._memory.record(missing, self._engine.translate(missing, on_done))
        known = self._memory.known(captions)
        return [known[caption] for caption in captions]

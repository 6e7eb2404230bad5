"""Stock Argos Translate as its users call it, for benchmarks to be compared with."""

from collections.abc import Callable, Sequence
from pathlib import Path


class OneSentence:
    """Takes the place of Argos Translate's sentence splitter, which it would download; it costs nothing."""

    def split_sentences(self, text: str) -> list[str]:
        """The whole text."""
        return [text]


def stock(folder: Path, intra_threads: int) -> Callable[[Sequence[str]], list[str]]:
    """Argos Translate's own translation object over an unpacked package: one caption a call, 4 hypotheses.

    Args:
        intra_threads: its `ARGOS_INTRA_THREADS`; 0 is its default, 1 makes it faster on small batches.
    """
    from argostranslate import package, settings, translate

    opened = package.Package(folder)
    source, target = (translate.Language(code, code) for code in (opened.from_code, opened.to_code))
    translation = translate.PackageTranslation(source, target, opened)
    translation.sentencizer = OneSentence()
    settings.intra_threads = intra_threads
    translation.translate("a red star")  # loads the model with these settings
    cached = translate.CachedTranslation(translation)
    return lambda captions: [cached.translate(caption) for caption in captions]

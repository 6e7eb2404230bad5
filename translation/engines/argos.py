"""Argos packages driven by CTranslate2 directly, with Argos Translate's own tokenizers and decoding.

What differs from `argostranslate.translate.apply_packaged_translation`: captions share batches, the sentence splitter
(which would be downloaded) is ours, and there are guards. The only module that loads `argostranslate`, of which it
takes the tokenizers; they are free of side effects.
"""

from pathlib import Path
from typing import Any

from data_catalog.errors import InputError
from data_catalog.language_pack import LanguagePack
from translation.config import TranslateConfig
from translation.engines.ctranslate2_model import CTranslate2Translator, Model
from translation.engines.sentences import Tokens
from translation.packages.package import Package, default_packages_dir, find, open_package, require_pair

# As Argos Translate sets it.
LENGTH_PENALTY = 0.2


def open_engine(
    config: TranslateConfig, source: LanguagePack, target: LanguagePack, cache_dir: Path
) -> CTranslate2Translator:
    """The engine over the package that the settings name, or the newest installed one that fits.

    Raises:
        InputError: no package, a damaged one, or one for another pair.
    """
    from_code, to_code = source.argos or source.code, target.argos or target.code
    if not config.package:
        package = find(from_code, to_code, default_packages_dir())
    else:
        path = Path(config.package[0]).expanduser()
        package = open_package(path, cache_dir)
        require_pair(package, from_code, to_code, named=path)
    return argos_translator(package, config, from_code=source.code, to_code=target.code)


def argos_translator(
    package: Package, config: TranslateConfig, *, from_code: str | None = None, to_code: str | None = None
) -> CTranslate2Translator:
    """The engine over an opened package; the codes of its languages are the package's own unless given."""
    model = Model(
        engine="argos",
        folder=package.folder / "model",
        sha256=package.sha256,
        from_code=from_code or package.from_code,
        to_code=to_code or package.to_code,
        target_prefix=package.target_prefix,
        length_penalty=LENGTH_PENALTY,
    )
    return CTranslate2Translator(model, ArgosTokenizer(package), config)


class ArgosTokenizer:
    """A package's tokenizer; see `translation.engines.ctranslate2_model.Tokenizer`."""

    def __init__(self, package: Package) -> None:
        from argostranslate.tokenizer import BPETokenizer, SentencePieceTokenizer

        path = package.tokenizer_path
        self._tokenizer: Any
        self.alphabet: frozenset[str] | None = None  # of a BPE model, which lists its merges only, nothing is known
        try:
            if path.name == "bpe.model":
                self._tokenizer = BPETokenizer(path, package.from_code, package.to_code)
            else:
                self._tokenizer = SentencePieceTokenizer(path)
                self.alphabet = _alphabet(path)
            self._tokenizer.encode("a")  # which loads it
        except (RuntimeError, ValueError, OSError, SystemExit) as error:  # the latter of a BPE model
            raise InputError(f"{path} cannot be loaded ({error}): install the package again") from error

    def encode(self, text: str) -> Tokens:
        """Pieces, without special tokens: Argos packages want none."""
        pieces: Tokens = self._tokenizer.encode(text)
        return pieces

    def decode(self, tokens: Tokens) -> str:
        """Pieces as text."""
        text: str = self._tokenizer.decode(tokens)
        return text.removeprefix(" ")


def _alphabet(path: Path) -> frozenset[str] | None:
    """Characters of a sentencepiece vocabulary; None where it spells in bytes."""
    import sentencepiece

    vocabulary = sentencepiece.SentencePieceProcessor(model_file=str(path))
    ids = range(vocabulary.get_piece_size())
    if any(vocabulary.is_byte(number) for number in ids):
        return None
    spelling = (n for n in ids if not vocabulary.is_control(n) and not vocabulary.is_unknown(n))
    return frozenset("".join(vocabulary.id_to_piece(number) for number in spelling))

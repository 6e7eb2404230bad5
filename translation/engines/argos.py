"""Argos packages run directly by CTranslate2, with Argos Translate's own tokenizers and decoding.

Differences from `argostranslate.translate.apply_packaged_translation`: captions share batches, the sentence splitter
(which would be downloaded) is our own, and output is checked. This is the only module that loads `argostranslate`. It
uses the tokenizers only, which have no side effects.
"""

from pathlib import Path
from typing import Any

from data_catalog.base.errors import InputError
from data_catalog.base.language_pack import LanguagePack
from translation.config import TranslateConfig
from translation.engines.ctranslate2_model import CTranslate2Translator, Model, Tokens, alphabet_of
from translation.packages.package import Package, default_packages_dir, find, open_package, require_pair

# The value of Argos Translate.
LENGTH_PENALTY = 0.2


def open_engine(
    config: TranslateConfig, source: LanguagePack, target: LanguagePack, cache_dir: Path
) -> CTranslate2Translator:
    """Return the engine over the package that the settings name, or the newest installed one for these languages."""
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
    """Return the engine over an opened package; the language codes default to the package's own."""
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


def try_out(package: Package) -> None:
    """Translate with a package on the CPU; raise InputError if it cannot be used."""
    argos_translator(package, TranslateConfig(device="cpu")).try_out()


class ArgosTokenizer:
    """A package's tokenizer; see `translation.engines.ctranslate2_model.Tokenizer`."""

    def __init__(self, package: Package) -> None:
        from argostranslate.tokenizer import BPETokenizer, SentencePieceTokenizer

        path = package.tokenizer_path
        self._tokenizer: Any
        self.alphabet: frozenset[str] | None = None  # unknown for a BPE model, which contains only its merges
        try:
            if path.name == "bpe.model":
                self._tokenizer = BPETokenizer(path, package.from_code, package.to_code)
            else:
                self._tokenizer = SentencePieceTokenizer(path)
                self.alphabet = alphabet_of(_pieces(path))
            self._tokenizer.encode("a")  # the first call loads the model
        except (RuntimeError, ValueError, OSError, SystemExit) as error:  # a BPE model raises SystemExit
            raise InputError(f"{path} cannot be loaded ({error}). Install the package again") from error

    def encode(self, text: str) -> Tokens:
        """Return the pieces of a text, without special tokens: Argos packages need none."""
        pieces: Tokens = self._tokenizer.encode(text)
        return pieces

    def decode(self, tokens: Tokens) -> str:
        """Return the text of pieces."""
        text: str = self._tokenizer.decode(tokens)
        return text.removeprefix(" ")


def _pieces(path: Path) -> list[str]:
    """Return the pieces of a sentencepiece model that spell text."""
    import sentencepiece

    model = sentencepiece.SentencePieceProcessor(model_file=str(path))
    ids = (n for n in range(model.get_piece_size()) if not model.is_control(n) and not model.is_unknown(n))
    return list(map(model.id_to_piece, ids))

"""Folders of converted models: what must be in them, and what they say of themselves.

A folder holds what `ct2-transformers-converter` (or another of CTranslate2's converters) writes, and beside it the
tokenizer's files from the original model.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_catalog.errors import InputError
from data_catalog.storage.shards import sha256_of

# Tokenizer files by family of models: alternatives, the preferred one first.
TOKENIZERS = {
    "opus": (("source.spm", "target.spm"), ("sentencepiece.model",)),
    "m2m": (("sentencepiece.bpe.model",),),
    "nllb": (("tokenizer.json",), ("sentencepiece.bpe.model",)),
}
TOKENIZER_CONFIG = "tokenizer_config.json"
TOKENIZER_FILES = (
    "source.spm", "target.spm", "sentencepiece.model", "sentencepiece.bpe.model", "vocab.json", "tokenizer.json",
    TOKENIZER_CONFIG, "special_tokens_map.json",
)  # fmt: skip
# Tokenizer classes by family; the generic ones tell nothing, and the vocabulary decides.
FAMILIES = {
    "MarianTokenizer": "opus",
    "M2M100Tokenizer": "m2m",
    "NllbTokenizer": "nllb",
    "NllbTokenizerFast": "nllb",
}
GENERIC_CLASSES = (None, "PreTrainedTokenizerFast", "TokenizersBackend")
DEFAULT_TOKENS = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}  # CTranslate2's
# How families write languages: ">>ita<<", "__it__", "ita_Latn"; unconverted ones also "it_IT", "<2it>".
LANGUAGES = {
    "opus": re.compile(r">>\w+<<"),
    "m2m": re.compile(r"__[a-z]{2,3}__"),
    "nllb": re.compile(r"[a-z]{3}_[A-Z][a-z]{3}"),
    "mbart": re.compile(r"[a-z]{2}_[A-Z]{2}"),
    "t5": re.compile(r"<2[a-z]{2,3}(_\w+)?>"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvertedModel:
    """A folder whose parts are all there.

    Args:
        config: CTranslate2's `config.json`.
        tokenizer_config: Hugging Face's, empty where there is none.
        source_vocabulary: tokens of the encoder, by number.
        target_vocabulary: tokens of the decoder.
        family: a key of `TOKENIZERS`.
        tokenizer: paths of the tokenizer's files, the source's first.
    """

    folder: Path
    config: dict[str, Any]
    tokenizer_config: dict[str, Any]
    source_vocabulary: tuple[str, ...]
    target_vocabulary: tuple[str, ...]
    family: str
    tokenizer: tuple[Path, ...]

    def token(self, name: str) -> str:
        """A special token by its name in CTranslate2's configuration, such as "eos_token"."""
        return str(self.config.get(name) or DEFAULT_TOKENS[name])

    @property
    def adds_end(self) -> bool:
        """Tell whether CTranslate2 adds the end token to a sentence."""
        return bool(self.config.get("add_source_eos"))

    @property
    def starts_with_end(self) -> bool:
        """Tell whether the decoder starts with the end token, as Marian's does."""
        return bool(self.config.get("decoder_start_token") == self.token("eos_token"))

    def file_hashes(self) -> dict[str, str]:
        """Digests, by name, of the files that decide the translations."""
        vocabularies = [path.name for path in self.folder.glob("*_vocabulary.*")]
        names = ["model.bin", "config.json", *TOKENIZER_FILES, *vocabularies]
        return {name: sha256_of(self.folder / name) for name in names if (self.folder / name).is_file()}


def read_model(folder: Path) -> ConvertedModel:
    """Check a folder and read what is small in it.

    Raises:
        InputError: it is no converted model, or a part of it is missing or damaged.
    """
    _require_converted(folder)
    tokenizer_config = read_object(folder / TOKENIZER_CONFIG) if (folder / TOKENIZER_CONFIG).is_file() else {}
    source_vocabulary, target_vocabulary = _read_vocabularies(folder)
    if tokenizer_config.get("separate_vocabs") and source_vocabulary == target_vocabulary:
        # CTranslate2's converter keeps the source's and would write the translation in its words.
        raise InputError(f"{folder} lost the vocabulary of its target when it was converted: name another model")
    family = _family(folder, tokenizer_config, target_vocabulary)
    return ConvertedModel(
        folder=folder,
        config=read_object(folder / "config.json"),
        tokenizer_config=tokenizer_config,
        source_vocabulary=source_vocabulary,
        target_vocabulary=target_vocabulary,
        family=family,
        tokenizer=_tokenizer_paths(folder, family),
    )


def _require_converted(folder: Path) -> None:
    if not folder.is_dir():
        raise InputError(f"translate.model: {folder} is no folder: name the folder of a converted model")
    if not (folder / "model.bin").is_file():
        if any(any(folder.glob(name)) for name in ("pytorch_model*", "model*.safetensors", "tf_model*")):
            raise InputError(f"{folder} is not converted yet: run `{_converter_command(folder)}` and name {folder}-ct2")
        raise InputError(f"{folder} has no model.bin: name the folder that a converter of CTranslate2 wrote")
    if not (folder / "config.json").is_file():
        raise InputError(f"{folder} has no config.json: convert the model with CTranslate2 3.0 or later")


def _converter_command(folder: Path) -> str:
    files = [name for name in TOKENIZER_FILES if (folder / name).is_file()]
    command = f"ct2-transformers-converter --model {folder} --output_dir {folder}-ct2"
    return " ".join([command, "--copy_files", *files]) if files else command


def _family(folder: Path, tokenizer_config: dict[str, Any], vocabulary: Sequence[str]) -> str:
    name = tokenizer_config.get("tokenizer_class")
    if str(name) in FAMILIES:
        return FAMILIES[str(name)]
    if name not in GENERIC_CLASSES:
        raise InputError(f"{folder} has a {name}: only OPUS-MT (Marian), M2M-100, NLLB and OpenNMT models can be used")
    for family in ("nllb", "m2m"):
        if any(map(LANGUAGES[family].fullmatch, vocabulary)):
            return family
    return "opus"


def _tokenizer_paths(folder: Path, family: str) -> tuple[Path, ...]:
    for names in TOKENIZERS[family]:
        if all((folder / name).is_file() for name in names):
            return tuple(folder / name for name in names)
    wanted = ", or ".join(" and ".join(names) for names in TOKENIZERS[family])
    raise InputError(f"{folder} has no tokenizer: copy {wanted} from the original model into it")


def _read_vocabularies(folder: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    for names in (("shared_vocabulary",), ("source_vocabulary", "target_vocabulary")):
        found = [_read_vocabulary(folder, name) for name in names]
        if all(found):
            return found[0], found[-1]
    raise InputError(f"{folder} lacks the model's vocabulary, such as shared_vocabulary.json: convert the model again")


def _read_vocabulary(folder: Path, name: str) -> tuple[str, ...]:
    """Tokens by number; none where there is no such file."""
    path = folder / f"{name}.json"
    if path.is_file():
        tokens = _read_json(path)
        if not isinstance(tokens, list) or not all(isinstance(token, str) for token in tokens):
            raise InputError(f"{path} must hold a list of tokens: convert the model again")
        return tuple(tokens)
    path = folder / f"{name}.txt"
    try:
        return tuple(path.read_text(encoding="utf-8").rstrip("\n").split("\n")) if path.is_file() else ()
    except ValueError as error:
        raise InputError(f"{path} is damaged ({error}): convert the model again") from error


def read_object(path: Path) -> dict[str, Any]:
    """Return the JSON object of a file. Raises InputError where it holds none."""
    value = _read_json(path)
    if not isinstance(value, dict):
        raise InputError(f"{path} must hold a JSON object: convert or copy it again")
    return value


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is damaged ({error}): convert or copy it again") from error

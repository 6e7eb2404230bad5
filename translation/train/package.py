"""Train a translation package: a TSV of parallel captions in, an `.argosmodel` that Argos Translate reads out."""

import json
import logging
import re
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_catalog.errors import ConfigError
from data_catalog.shards import TEMPORARY_PREFIX, sha256_of, write_atomically
from translation.chrf import corpus_chrf
from translation.config import TranslateConfig
from translation.engines.argos import argos_translator
from translation.packages.archive import pack
from translation.packages.package import read_package
from translation.train.card import TrainReport, language_name, write_card
from translation.train.config import TrainPackageConfig
from translation.train.convert import save_ctranslate2
from translation.train.pairs import Pair, ParallelCaptions, read_pairs
from translation.train.vocabulary import load_vocabulary, pieces_of, train_vocabulary

if TYPE_CHECKING:
    from translation.train.model import TranslationModel

logger = logging.getLogger(__name__)

SUFFIX = ".argosmodel"
ARGOS_VERSION = "1.9"  # oldest Argos Translate that we support
QUANTIZATION = "int8"
LANGUAGE_CODE = re.compile(r"[a-z]{2,3}")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Languages:
    from_code: str
    to_code: str


def train_package(pairs: Path, *, from_code: str, to_code: str, out: Path, config: TrainPackageConfig) -> TrainReport:
    """Train a compact Transformer on parallel captions and write it to `out`, with its sha256 in a file beside it.

    Equal pairs, settings, library versions and number of threads give an equal file.

    Args:
        pairs: UTF-8 TSV, `source<TAB>target` a line, no header; bad lines are dropped and counted.
        from_code: ISO 639 code of the first column.
        to_code: ISO 639 code of the second column.
        out: the package's file; its name must end in `.argosmodel`.

    Raises:
        ConfigError: the codes, the name or the pairs cannot be used.
    """
    _check_arguments(from_code, to_code, out)
    data = read_pairs(pairs, num_held_out=config.num_held_out)
    logger.info("%d pairs to train on, %d held out, dropped: %s", len(data.training), len(data.held_out), data.dropped)
    languages = _Languages(from_code=from_code, to_code=to_code)
    out.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=TEMPORARY_PREFIX, dir=out.parent))
    try:
        report = _build(folder, data, sha256_of(pairs), languages, config)
        top = f"translate-{from_code}_{to_code}-{config.package_version.replace('.', '_')}"
        digest = write_atomically(out, lambda temporary: pack(folder, temporary, top=top))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    sidecar = out.with_name(out.name + ".sha256")
    write_atomically(sidecar, lambda temporary: _write(temporary, f"{digest}  {out.name}\n"))
    return report


def _check_arguments(from_code: str, to_code: str, out: Path) -> None:
    for code in (from_code, to_code):
        if not LANGUAGE_CODE.fullmatch(code):
            raise ConfigError(f"{code!r} is no ISO 639 code: give two or three lower-case letters, such as it")
    if from_code == to_code:
        raise ConfigError(f"the package would translate {from_code} to itself: give two different languages")
    if out.suffix != SUFFIX:
        raise ConfigError(f"the package's name must end in {SUFFIX}, got {out.name}")


def _build(
    folder: Path, data: ParallelCaptions, pairs_sha256: str, languages: _Languages, config: TrainPackageConfig
) -> TrainReport:
    """Fill the package's folder and measure what is in it, as it will be used."""
    vocabulary_path = folder / "sentencepiece.model"
    train_vocabulary((text for pair in data.training for text in pair), vocabulary_path, size=config.vocabulary_size)
    vocabulary = load_vocabulary(vocabulary_path)
    model, loss = _train(vocabulary, data, config)
    (folder / "model").mkdir()
    save_ctranslate2(model, pieces_of(vocabulary), folder / "model", quantization=QUANTIZATION)
    metadata = {
        "package_version": config.package_version,
        "argos_version": ARGOS_VERSION,
        "from_code": languages.from_code,
        "from_name": language_name(languages.from_code),
        "to_code": languages.to_code,
        "to_name": language_name(languages.to_code),
        "license": config.license,
    }
    _write(folder / "metadata.json", json.dumps(metadata, indent=2) + "\n")
    exact_match, chrf = _measure(folder, data.held_out)
    report = TrainReport(
        num_training=len(data.training),
        num_held_out=len(data.held_out),
        dropped=data.dropped,
        num_parameters=sum(parameter.numel() for parameter in model.parameters()),
        vocabulary_size=vocabulary.get_piece_size(),
        held_out_loss=loss,
        exact_match=exact_match,
        chrf=chrf,
    )
    write_card(folder / "README.md", metadata, report, pairs_sha256=pairs_sha256, config=config)
    return report


def _train(vocabulary: Any, data: ParallelCaptions, config: TrainPackageConfig) -> tuple["TranslationModel", float]:
    import torch

    from translation.train.loop import train_model
    from translation.train.model import ModelShape, TranslationModel

    if config.threads:
        torch.set_num_threads(config.threads)
    shape = ModelShape(
        vocabulary_size=vocabulary.get_piece_size(),
        embed_dim=config.embed_dim,
        num_heads=config.num_heads,
        ffn_dim=config.ffn_dim,
        num_encoder_layers=config.num_encoder_layers,
        num_decoder_layers=config.num_decoder_layers,
        dropout=config.dropout,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model = TranslationModel(shape)
        loss = train_model(model, _encoded(vocabulary, data.training), _encoded(vocabulary, data.held_out), config)
    return model, loss


def _encoded(vocabulary: Any, pairs: list[Pair]) -> list[tuple[list[int], list[int]]]:
    sources = vocabulary.encode([source for source, _ in pairs])
    targets = vocabulary.encode([target for _, target in pairs])
    return list(zip(sources, targets, strict=True))


def _measure(folder: Path, held_out: list[Pair]) -> tuple[float, float]:
    """Share of held-out pairs translated word for word as given, and chrF, by the finished package."""
    translator = argos_translator(read_package(folder), TranslateConfig())
    texts = [found.text for found in translator.translate([source for source, _ in held_out])]
    references = [target for _, target in held_out]
    for (source, target), text in list(zip(held_out, texts, strict=True))[:3]:
        logger.info("sample: %s -> %s (given: %s)", source, text, target)
    exact = sum(text == target for text, target in zip(texts, references, strict=True))
    return exact / len(held_out), corpus_chrf(texts, references)


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")

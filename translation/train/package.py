"""Train a translation package: a TSV of parallel captions in, an `.argosmodel` that Argos Translate reads out."""

import json
import logging
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_catalog.errors import ConfigError
from data_catalog.lock import writer_lock
from data_catalog.shards import TEMPORARY_PREFIX, sha256_of, write_atomically
from data_catalog.stages import Check
from translation.config import TranslateConfig
from translation.engines.argos import argos_translator
from translation.packages.archive import pack
from translation.packages.package import read_package
from translation.scores import corpus_bleu, corpus_chrf
from translation.train import folder as training_folders
from translation.train.card import TrainReport, language_name, write_card
from translation.train.config import TrainPackageConfig
from translation.train.convert import save_ctranslate2
from translation.train.folder import Earlier, Sources, training_folder
from translation.train.pairs import Pair, ParallelCaptions, read_pairs
from translation.train.state import load_weights
from translation.train.vocabulary import load_vocabulary, pieces_of, train_vocabulary

if TYPE_CHECKING:
    from translation.train.loop import HeldOutScores
    from translation.train.model import TranslationModel
    from translation.train.state import TrainState

logger = logging.getLogger(__name__)

SUFFIX = ".argosmodel"
ARGOS_VERSION = "1.9"  # oldest Argos Translate that we support
QUANTIZATION = "int8"
LANGUAGE_CODE = re.compile(r"[a-z]{2,3}")


def train_package(
    pairs: Sequence[Path],
    *,
    from_code: str,
    to_code: str,
    out: Path,
    config: TrainPackageConfig,
    held_out: Path | None = None,
    continued: Path | None = None,
    source_check: Check | None = None,
    target_check: Check | None = None,
) -> TrainReport:
    """Train a compact Transformer on parallel captions and write it to `out`, with its sha256 in a file beside it.

    A folder beside `out` (`training_folder`) keeps the training: a killed one goes on from its last validation, and
    ends with the same package, byte for byte, as one that was not killed. Equal pairs, settings, library versions and
    number of threads give an equal file.

    Args:
        pairs: UTF-8 TSV files, `source<TAB>target` a line, no header; bad lines are dropped and counted.
        from_code: ISO 639 code of the first column.
        to_code: ISO 639 code of the second column.
        out: the package's file; its name must end in `.argosmodel`.
        held_out: pairs for validation, in a file like `pairs`; without it some of `pairs` are kept for that.
        continued: an earlier package, whose training folder is beside it: training starts from its weights and keeps
            its vocabulary, sizes and held-out pairs.
        source_check: drops sources in another language (`cleaning.language.caption_language`); None: not checked.
        target_check: the same of targets.

    Raises:
        ConfigError: the codes, the name or the pairs cannot be used; another process trains there.
    """
    _check_arguments(from_code, to_code, out)
    if continued:
        _check_continued(continued, held_out, out)
    earlier = None
    if continued:
        earlier = training_folders.open_earlier(continued, from_code=from_code, to_code=to_code)
        config = earlier.sized(config)
    data = _read(pairs, held_out, earlier, config, source_check, target_check)
    logger.info("%d pairs to train on, %d held out, dropped: %s", len(data.training), len(data.held_out), data.dropped)
    sources = Sources(
        from_code=from_code,
        to_code=to_code,
        pairs_sha256=tuple(sha256_of(path) for path in pairs),
        held_out_sha256=sha256_of(held_out) if held_out else None,
        continued=earlier.key if earlier else None,
    )
    folder = training_folder(out)
    with writer_lock(folder):
        return _train_in(folder, data, sources, config, earlier, out)


def _read(
    paths: Sequence[Path],
    held_out: Path | None,
    earlier: Earlier | None,
    config: TrainPackageConfig,
    source_check: Check | None,
    target_check: Check | None,
) -> ParallelCaptions:
    """The pairs, less those that are held out: an earlier training's, a file's, or some of them."""
    kept_out: Sequence[Pair] = ()
    if earlier:
        kept_out = earlier.held_out
    elif held_out:
        validation = read_pairs(held_out, num_held_out=0, source_check=source_check, target_check=target_check)
        logger.info("dropped of %s: %s", held_out, validation.dropped)
        kept_out = validation.training
    return read_pairs(
        paths,
        num_held_out=0 if kept_out else config.num_held_out,
        held_out=kept_out,
        source_check=source_check,
        target_check=target_check,
    )


def _check_arguments(from_code: str, to_code: str, out: Path) -> None:
    for code in (from_code, to_code):
        if not LANGUAGE_CODE.fullmatch(code):
            raise ConfigError(f"{code!r} is no ISO 639 code: give two or three lower-case letters, such as it")
    if from_code == to_code:
        raise ConfigError(f"the package would translate {from_code} to itself: give two different languages")
    if out.suffix != SUFFIX:
        raise ConfigError(f"the package's name must end in {SUFFIX}, got {out.name}")


def _check_continued(continued: Path, held_out: Path | None, out: Path) -> None:
    if continued.resolve() == out.resolve():
        raise ConfigError(f"{out} is the package to continue from: give another name with --out")
    if held_out:
        raise ConfigError(
            f"{held_out}: what continues from {continued} is scored on the pairs held out then, since it may have been "
            "trained on any others: leave out --held-out"
        )


def _train_in(
    folder: Path,
    data: ParallelCaptions,
    sources: Sources,
    config: TrainPackageConfig,
    earlier: Earlier | None,
    out: Path,
) -> TrainReport:
    """Train in a folder that is ours, then pack."""
    key = training_folders.begin(folder, sources, config)
    training_folders.save_held_out(folder, data.held_out)
    vocabulary = _vocabulary(folder, data, config, earlier)
    metadata = {
        "package_version": config.package_version,
        "argos_version": ARGOS_VERSION,
        "from_code": sources.from_code,
        "from_name": language_name(sources.from_code),
        "to_code": sources.to_code,
        "to_name": language_name(sources.to_code),
        "license": config.license,
    }
    model, state = _train(folder, key, vocabulary, data, metadata, config, earlier)
    with _unpacked(folder, model, pieces_of(vocabulary), metadata) as package:
        exact_match, scores = _measure(package, data.held_out, TranslateConfig(), to_code=sources.to_code)
        report = TrainReport(
            num_training=len(data.training),
            num_held_out=len(data.held_out),
            dropped=data.dropped,
            num_parameters=sum(parameter.numel() for parameter in model.parameters()),
            vocabulary_size=vocabulary.get_piece_size(),
            num_steps=state.step,
            best_step=state.best.step,
            held_out_loss=state.best.held_out_loss,
            exact_match=exact_match,
            bleu=scores.bleu,
            chrf=scores.chrf,
        )
        write_card(package / "README.md", metadata, report, sources=sources, config=config)
        top = f"translate-{sources.from_code}_{sources.to_code}-{config.package_version.replace('.', '_')}"
        digest = write_atomically(out, lambda temporary: pack(package, temporary, top=top))
    sidecar = out.with_name(out.name + ".sha256")
    write_atomically(sidecar, lambda temporary: _write(temporary, f"{digest}  {out.name}\n"))
    return report


def _vocabulary(folder: Path, data: ParallelCaptions, config: TrainPackageConfig, earlier: Earlier | None) -> Any:
    """The training's vocabulary: trained once, or the earlier training's."""
    path = folder / training_folders.VOCABULARY_FILE
    if earlier:
        write_atomically(path, lambda temporary: _copy(earlier.folder / training_folders.VOCABULARY_FILE, temporary))
    elif not path.is_file():
        texts = (text for pair in data.training for text in pair)
        write_atomically(path, lambda temporary: train_vocabulary(texts, temporary, size=config.vocabulary_size))
    return load_vocabulary(path)


def _train(
    folder: Path,
    key: str,
    vocabulary: Any,
    data: ParallelCaptions,
    metadata: dict[str, str],
    config: TrainPackageConfig,
    earlier: Earlier | None,
) -> tuple["TranslationModel", "TrainState"]:
    """The network with the weights of its best validation, and the curve."""
    import torch

    from translation.train.loop import Files, train_model
    from translation.train.model import ModelShape, TranslationModel

    def score(network: TranslationModel) -> "HeldOutScores":
        with _unpacked(folder, network, pieces_of(vocabulary), metadata) as package:
            greedily = TranslateConfig(beam_size=1)
            return _measure(package, data.held_out, greedily, to_code=metadata["to_code"])[1]

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
    files = Files(state=folder / training_folders.STATE_FILE, best=folder / training_folders.WEIGHTS_FILE, key=key)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model = TranslationModel(shape)
        if earlier:
            load_weights(model, earlier.folder / training_folders.WEIGHTS_FILE)
        pairs, held_out = _encoded(vocabulary, data.training), _encoded(vocabulary, data.held_out)
        state = train_model(model, pairs, held_out, config, files=files, score=score)
    load_weights(model, files.best)
    return model, state


def _encoded(vocabulary: Any, pairs: list[Pair]) -> list[tuple[list[int], list[int]]]:
    sources = vocabulary.encode([source for source, _ in pairs])
    targets = vocabulary.encode([target for _, target in pairs])
    return list(zip(sources, targets, strict=True))


@contextmanager
def _unpacked(folder: Path, model: "TranslationModel", pieces: list[str], metadata: dict[str, str]) -> Iterator[Path]:
    """A package's folder with this network, as it will be packed, for as long as it is needed."""
    package = Path(tempfile.mkdtemp(prefix=TEMPORARY_PREFIX, dir=folder))
    try:
        _copy(folder / training_folders.VOCABULARY_FILE, package / "sentencepiece.model")
        (package / "model").mkdir()
        save_ctranslate2(model, pieces, package / "model", quantization=QUANTIZATION)
        _write(package / "metadata.json", json.dumps(metadata, indent=2) + "\n")
        yield package
    finally:
        shutil.rmtree(package, ignore_errors=True)


def _measure(
    package: Path, held_out: list[Pair], config: TranslateConfig, *, to_code: str
) -> tuple[float, "HeldOutScores"]:
    """Share of held-out pairs translated word for word as given, and their scores, by a package's folder."""
    from translation.train.loop import HeldOutScores

    translator = argos_translator(read_package(package), config)
    texts = [found.text for found in translator.translate([source for source, _ in held_out])]
    references = [target for _, target in held_out]
    for (source, target), text in list(zip(held_out, texts, strict=True))[:3]:
        logger.info("sample: %s -> %s (given: %s)", source, text, target)
    exact = sum(text == target for text, target in zip(texts, references, strict=True))
    scores = HeldOutScores(bleu=corpus_bleu(texts, references, to_code), chrf=corpus_chrf(texts, references))
    return exact / len(held_out), scores


def _copy(source: Path, target: Path) -> None:
    target.write_bytes(source.read_bytes())


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")

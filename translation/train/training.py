"""Train a translation package: read a TSV of parallel captions, write an `.argosmodel` that Argos Translate reads.

The training's folder is beside the package. It serves to resume the training, to inspect it, and to continue from it.
"""

import hashlib
import importlib.metadata
import json
import logging
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from data_catalog.base.errors import DamagedError, InputError, SettingsError
from data_catalog.base.precision import refuse_slow_precision, with_precision
from data_catalog.disk.disk_errors import disk_errors
from data_catalog.disk.files import (
    TEMPORARY_PREFIX,
    digest,
    read_json,
    sha256_of,
    sweep_temporary,
    write_atomically,
    write_bytes,
    write_json,
)
from data_catalog.disk.lock import writer_lock
from data_catalog.report.texts import language_name
from data_catalog.rows.stages import Check
from translation.config import TranslateConfig
from translation.engines.argos import argos_translator
from translation.evaluate import corpus_bleu, corpus_chrf
from translation.packages.package import pack, read_package
from translation.train.config import SIZES, TrainPackageConfig, refuse_held_out
from translation.train.loop import STATE_FILE, WEIGHTS_FILE, HeldOutScores, TrainState, train_model
from translation.train.model import TranslationModel, load_vocabulary, pieces_of, save_ctranslate2, train_vocabulary
from translation.train.pairs import Pair, Sources, files_of, read_pairs
from translation.train.report import Training, TrainReport, write_card, write_report

logger = logging.getLogger(__name__)

SUFFIX = ".argosmodel"
ARGOS_VERSION = "1.9"  # oldest supported version of Argos Translate
LANGUAGE_CODE = re.compile(r"[a-z]{2,3}")
RUN_FILE = "run.json"
VOCABULARY_FILE = "sentencepiece.model"
HELD_OUT_FILE = "held_out.tsv"
QUANTIZATION = "int8"
# Always on the CPU, because scores choose the weights and are on the card.
DECODING = TranslateConfig(device="cpu")
GREEDY = TranslateConfig(beam_size=1, device="cpu")

_LIBRARIES = ("torch", "sentencepiece", "ctranslate2", "sacrebleu")
_VERSION = 1  # increase it when a change of the code gives other weights for equal settings


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

    The training's folder (`training_folder`) is beside `out`. After a kill, training resumes from its last validation,
    and ends with the same package, byte for byte. Equal pairs, settings, library versions and number of threads give an
    equal file.

    Args:
        pairs: UTF-8 files of `source<TAB>target` lines without a header, or names with `{lang}` for two files of one
            sentence per line; unusable lines are dropped and counted.
        from_code: ISO 639 code of the first column.
        to_code: ISO 639 code of the second column.
        out: the package's file; its name must end in `.argosmodel`.
        config: settings of the training.
        held_out: a file of `source<TAB>target` lines for validation, or a name with `{lang}`; None to hold out some of
            `pairs`.
        continued: an earlier package with its training folder beside it. Training starts from its weights and keeps its
            vocabulary, sizes and held-out pairs.
        source_check: drops sources in another language (cleaning's `caption_language`); None for no check.
        target_check: the check of targets.

    Raises:
        SettingsError: the codes or the name cannot be used, or training has diverged.
        InputError: the pairs or the package to continue from cannot be used.
        DamagedError: the training's folder is damaged.
        BusyError: another process trains in this folder.
    """
    _check_arguments(from_code, to_code, out)
    refuse_slow_precision(config.precision, "cpu", setting="precision")
    config = config if config.threads else replace(config, threads=torch.get_num_threads())
    codes = from_code, to_code
    earlier: EarlierTraining | None = None
    held_out_pairs: list[Pair] = []
    if continued:
        if continued.resolve() == out.resolve():
            raise SettingsError(f"{out} is the package that training continues from: give another name with --out")
        refuse_held_out(held_out, continued=continued)
        earlier = open_earlier_training(continued, from_code=from_code, to_code=to_code)
        config, held_out_pairs = replace(config, **earlier.sizes), earlier.held_out  # type: ignore[arg-type]
    elif held_out:
        validation = read_pairs(
            held_out, num_held_out=0, source_check=source_check, target_check=target_check, codes=codes
        )
        logger.info("lines of %s dropped: %s", held_out, validation.dropped)
        held_out_pairs = validation.training
    data = read_pairs(
        pairs,
        num_held_out=config.num_held_out,
        held_out=held_out_pairs,
        source_check=source_check,
        target_check=target_check,
        codes=codes,
    )
    logger.info("%d pairs to train on, %d held out, dropped: %s", len(data.training), len(data.held_out), data.dropped)
    sources = Sources(
        from_code=from_code,
        to_code=to_code,
        pairs_sha256=tuple(sha256_of(file) for path in pairs for file in files_of(path, codes)),
        held_out_sha256=",".join(map(sha256_of, files_of(held_out, codes))) if held_out else None,
        continued=earlier.key if earlier else None,
    )
    metadata = {
        "package_version": config.package_version,
        "argos_version": ARGOS_VERSION,
        "from_code": from_code,
        "from_name": language_name(from_code),
        "to_code": to_code,
        "to_name": language_name(to_code),
        "license": config.license,
    }
    folder = training_folder(out)
    with writer_lock(folder):
        sweep_temporary([folder])
        training = Training(folder=folder, data=data, sources=sources, config=config, metadata=metadata)
        settings = with_precision(config, "cpu", has_begun=lambda each: _has_begun(replace(training, config=each)))
        training = replace(training, config=settings)
        model, state = _train(training, earlier)
        return _pack(training, model, state, out)


def _check_arguments(from_code: str, to_code: str, out: Path) -> None:
    for code in (from_code, to_code):
        if not LANGUAGE_CODE.fullmatch(code):
            raise SettingsError(f"{code!r} is not an ISO 639 code: give two or three lower-case letters, such as it")
    if from_code == to_code:
        raise SettingsError(f"the package would translate {from_code} to itself: give two different languages")
    if out.suffix != SUFFIX:
        raise SettingsError(f"the package's name must end in {SUFFIX}, got {out.name}")
    if out.is_dir():
        raise SettingsError(f"{out} is a folder: give the name of a file with --out")


def training_folder(out: Path) -> Path:
    """Return the folder of the training that writes the package `out`."""
    return out.with_name(f"{out.name}.training")


@dataclass(frozen=True, slots=True, kw_only=True)
class EarlierTraining:
    """A training to continue from."""

    folder: Path
    key: str
    sizes: dict[str, int]
    held_out: list[Pair]


def open_earlier_training(package: Path, *, from_code: str, to_code: str) -> EarlierTraining:
    """Open the training of an earlier package.

    Args:
        package: the `.argosmodel` that the training wrote.
        from_code: ISO 639 code that its first column must have.
        to_code: ISO 639 code that its second column must have.

    Raises:
        InputError: the package is missing or unfinished, or its folder is missing or for other languages.
        DamagedError: its folder is damaged.
    """
    if not package.is_file():
        raise InputError(f"{package} cannot be continued, it is not a file: give a package whose training has ended")
    folder = training_folder(package)
    files = [folder / name for name in (RUN_FILE, WEIGHTS_FILE, VOCABULARY_FILE, HELD_OUT_FILE)]
    missing = [path.name for path in files if not path.is_file()]
    if missing:
        raise InputError(
            f"{package} cannot be continued: its training's folder {folder}, which `mt train` writes, does not "
            f"contain {', '.join(missing)}"
        )
    key, (own_from, own_to), sizes = _read_run(folder / RUN_FILE)
    if (own_from, own_to) != (from_code, to_code):
        raise InputError(f"{package} translates {own_from} to {own_to}, not {from_code} to {to_code}")
    return EarlierTraining(folder=folder, key=key, sizes=sizes, held_out=read_held_out(folder))


def _read_run(path: Path) -> tuple[str, tuple[str, str], dict[str, int]]:
    """Return a training's key, its languages and the sizes of its network.

    Raises:
        DamagedError: the record is damaged.
    """
    try:
        run = read_json(path)
        languages = run["sources"]["from_code"], run["sources"]["to_code"]
        return run["key"], languages, {name: run["config"][name] for name in SIZES}
    except (ValueError, KeyError, TypeError) as error:
        raise DamagedError(
            f"{path} is not the record of a training ({error}): remove {path.parent} to train again"
        ) from error


def save_held_out(folder: Path, held_out: list[Pair]) -> None:
    """Write the held-out pairs, so that a training that continues from this one holds them out as well."""
    content = "".join(f"{source}\t{target}\n" for source, target in held_out).encode()
    write_bytes(folder / HELD_OUT_FILE, content)


def read_held_out(folder: Path) -> list[Pair]:
    """Return the held-out pairs that `save_held_out` wrote.

    Raises:
        DamagedError: the file is damaged.
    """
    path = folder / HELD_OUT_FILE
    try:
        # Bytes are read, because in text mode a carriage return in a text would end its line.
        lines = path.read_bytes().decode("utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DamagedError(f"{path} cannot be read ({error}). Restore that training's folder from a copy") from error
    pairs = [line.split("\t") for line in lines[:-1]]
    if not pairs or lines[-1] or any(len(fields) != 2 for fields in pairs):
        raise DamagedError(f"{path} is damaged, and the held-out pairs are lost: restore the folder from a copy")
    return [(source, target) for source, target in pairs]


def _train(training: Training, earlier: EarlierTraining | None) -> tuple[TranslationModel, TrainState]:
    """Train, or resume, to the end; return the network with the weights of its best validation, and the final state."""
    key = _begin(training)
    save_held_out(training.folder, training.data.held_out)
    vocabulary_file = training.folder / VOCABULARY_FILE
    if earlier:
        write_atomically(vocabulary_file, partial(shutil.copyfile, earlier.folder / VOCABULARY_FILE))
    elif not vocabulary_file.is_file():
        texts = (text for pair in training.data.training for text in pair)
        size = training.config.vocabulary_size
        write_atomically(vocabulary_file, lambda temporary: train_vocabulary(texts, temporary, size=size))
    vocabulary = load_vocabulary(vocabulary_file)
    token_pairs, held_out = (
        list(zip(*(vocabulary.encode([pair[side] for pair in pairs]) for side in (0, 1)), strict=True))
        for pairs in (training.data.training, training.data.held_out)
    )
    torch.set_num_threads(training.config.threads)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(training.config.seed)
        model = TranslationModel(replace(training.config, vocabulary_size=vocabulary.get_piece_size()))
        report = partial(write_report, training, num_parameters=model.num_parameters)
        if not (training.folder / STATE_FILE).is_file():
            report(TrainState(), ())
        if earlier:
            _load_weights(model, earlier.folder / WEIGHTS_FILE)

        def score(network: TranslationModel) -> HeldOutScores:
            with _unpacked(training, network) as package:
                return _score(training, package, GREEDY)

        state = train_model(model, token_pairs, held_out, folder=training.folder, key=key, score=score, report=report)
    _load_weights(model, training.folder / WEIGHTS_FILE)
    return model, state


def _key(training: Training) -> str:
    """Return the training's key: equal keys give equal packages.

    It covers the pairs as well as their files, because language checks decide which pairs are dropped.
    """
    pairs = {"training": training.data.training, "held_out": training.data.held_out}
    texts = {name: "".join(f"{source}\t{target}\n" for source, target in found) for name, found in pairs.items()}
    return digest(
        {
            "version": _VERSION,
            **_made_of(training),
            "pairs": {name: hashlib.sha256(text.encode()).hexdigest() for name, text in texts.items()},
            "dropped": training.data.dropped,
            "libraries": {name: importlib.metadata.version(name) for name in _LIBRARIES},
        }
    )


def _made_of(training: Training) -> dict[str, Any]:
    return {"sources": asdict(training.sources), "config": asdict(training.config)}


def _has_begun(training: Training) -> bool:
    path = training.folder / RUN_FILE
    return path.is_file() and _read_run(path)[0] == _key(training)


def _begin(training: Training) -> str:
    """Write the record of the training, or check that the folder already contains it; return the training's key.

    Another training that has not written a state yet is replaced, so that settings that do not work can be corrected.
    """
    key = _key(training)
    if _has_begun(training):
        return key
    if (training.folder / STATE_FILE).is_file():
        raise SettingsError(
            f"{training.folder} contains a training with other settings, pairs or libraries: remove it to train again, "
            "or give another --out"
        )
    # The vocabulary of the other training must be removed before the record of this one is written.
    (training.folder / VOCABULARY_FILE).unlink(missing_ok=True)
    write_json(training.folder / RUN_FILE, {"key": key, **_made_of(training)})
    return key


@contextmanager
def _unpacked(training: Training, model: TranslationModel) -> Iterator[Path]:
    """Yield a temporary package folder with this network, as it will be packed."""
    with (
        disk_errors(training.folder / "package"),
        tempfile.TemporaryDirectory(prefix=TEMPORARY_PREFIX, dir=training.folder, ignore_cleanup_errors=True) as name,
    ):
        package = Path(name)
        shutil.copyfile(training.folder / VOCABULARY_FILE, package / "sentencepiece.model")
        (package / "model").mkdir()
        pieces = pieces_of(load_vocabulary(training.folder / VOCABULARY_FILE))
        save_ctranslate2(model, pieces, package / "model", quantization=QUANTIZATION)
        (package / "metadata.json").write_text(json.dumps(training.metadata, indent=2) + "\n", encoding="utf-8")
        yield package


def _score(training: Training, package: Path, decoding: TranslateConfig) -> HeldOutScores:
    """Translate the held-out sources with a package's folder, and score the translations."""
    sources, references = ([pair[side] for pair in training.data.held_out] for side in (0, 1))
    texts = [found.text for found in argos_translator(read_package(package), decoding).translate(sources)]
    bleu = corpus_bleu(texts, references, training.sources.to_code)
    return HeldOutScores(bleu=bleu, chrf=corpus_chrf(texts, references), texts=texts)


def _pack(training: Training, model: TranslationModel, state: TrainState, out: Path) -> TrainReport:
    """Score the finished package and write it."""
    with _unpacked(training, model) as package:
        scores = _score(training, package, DECODING)
        exact = sum(text == target for text, (_, target) in zip(scores.texts, training.data.held_out, strict=True))
        report = TrainReport(
            num_training=len(training.data.training),
            num_held_out=len(training.data.held_out),
            dropped=training.data.dropped,
            num_parameters=model.num_parameters,
            vocabulary_size=model.config.vocabulary_size,
            num_steps=state.step,
            best_step=state.best.step,
            held_out_loss=state.best.held_out_loss,
            exact_match=exact / len(training.data.held_out),
            bleu=scores.bleu,
            chrf=scores.chrf,
        )
        write_card(package / "README.md", training, report)
        version = training.config.package_version.replace(".", "_")
        top = f"translate-{training.sources.from_code}_{training.sources.to_code}-{version}"
        sha256 = write_atomically(out, lambda temporary: pack(package, temporary, top=top))
    write_bytes(out.with_name(f"{out.name}.sha256"), f"{sha256}  {out.name}\n".encode())
    write_report(training, state, scores.texts, num_parameters=model.num_parameters, report=report)
    return report


def _load_weights(model: TranslationModel, path: Path) -> None:
    """Load weights into the network, strictly.

    Raises:
        DamagedError: the file is missing, damaged, or of another network.
    """
    try:
        model.load_state_dict(load_file(path), strict=True)
    except (OSError, SafetensorError, RuntimeError) as error:
        raise DamagedError(f"{path} does not contain this network's weights: {error}") from error

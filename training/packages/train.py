"""Train a translation package: read parallel captions, write an `.argosmodel` that Argos Translate reads.

The training's folder is beside the package. It serves to resume the training, to inspect it, and to continue from it.
"""

import hashlib
import importlib.metadata
import json
import logging
import math
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from data_catalog.base.boundary import about
from data_catalog.base.errors import DamagedError, InputError, SettingsError
from data_catalog.base.precision import refuse_slow_precision, with_precision
from data_catalog.catalog.manifest import RUN_FILE
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
from training.packages.config import SIZES, TrainPackageConfig
from training.packages.network import TranslationModel, load_vocabulary, pieces_of, save_ctranslate2, train_vocabulary
from training.packages.pairs import Pair, files_of, read_pairs
from training.packages.report import Sources, Training, TrainReport, write_card, write_report
from training.packages.task import WEIGHTS_FILE, HeldOutScores, TranslationTask, learning_rate, load_weights
from training.runs.attempts import STATE_FILE, key_of_folder
from training.runs.processes import deterministic_torch, require_one_process
from training.runs.runner import Phase, Runner, RunState
from translation.config import TranslateConfig
from translation.engines.argos import argos_translator
from translation.evaluate import corpus_bleu, corpus_chrf
from translation.packages.package import pack, read_package

logger = logging.getLogger(__name__)

SUFFIX = ".argosmodel"
ARGOS_VERSION = "1.9"  # oldest supported version of Argos Translate
LANGUAGE_CODE = re.compile(r"[a-z]{2,3}")  # part of a folder's name
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

    After a kill, training resumes from its last validation, and ends with the same package, byte for byte. Equal pairs,
    settings, library versions and number of threads give an equal file.

    Args:
        pairs: files, or names with `{lang}`; see `read_pairs`.
        from_code: ISO 639 code of the first column; `to_code` of the second.
        out: the package's file; its name must end in `.argosmodel`.
        held_out: a file of pairs for validation, or a name with `{lang}`; None to hold out some of `pairs`.
        continued: an earlier package with its training folder beside it. Training starts from its weights and keeps its
            vocabulary, sizes and held-out pairs.
        source_check: drops sources in another language (cleaning's `caption_language`); `target_check` targets.
    """
    require_one_process("mt train")
    codes = from_code, to_code
    _check_arguments(codes, out, held_out, continued)
    refuse_slow_precision(config.precision, "cpu", setting="precision")
    config = config if config.threads else replace(config, threads=torch.get_num_threads())
    read = partial(read_pairs, source_check=source_check, target_check=target_check, codes=codes)
    earlier, held_out_pairs = None, list[Pair]()
    if continued:
        earlier, sizes, held_out_pairs = _read_earlier(continued, codes)
        config = replace(config, **sizes)
    elif held_out:
        validation = read(held_out, num_held_out=0)
        logger.info("lines of %s dropped: %s", held_out, validation.dropped)
        held_out_pairs = validation.training
    data = read(pairs, num_held_out=config.num_held_out, held_out=held_out_pairs)
    logger.info("%d pairs to train on, %d held out, dropped: %s", len(data.training), len(data.held_out), data.dropped)
    sources = Sources(
        from_code=from_code,
        to_code=to_code,
        pairs_sha256=tuple(sha256_of(file) for path in pairs for file in files_of(path, codes)),
        held_out_sha256=",".join(map(sha256_of, files_of(held_out, codes))) if held_out else None,
        continued=earlier,
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
        sweep_temporary([folder, (folder / STATE_FILE).parent])
        training = Training(folder=folder, data=data, sources=sources, config=config, metadata=metadata)
        begun = key_of_folder(folder)
        resolved = with_precision(config, "cpu", has_begun=lambda each: begun == _key(replace(training, config=each)))
        training = replace(training, config=resolved)
        key = _key(training)
        if begun != key:
            _replace_record(training, key)
        model, state = _train(training, key, training_folder(continued) if continued else None)
        return _pack(training, model, state, out)


def _check_arguments(codes: tuple[str, str], out: Path, held_out: Path | None, continued: Path | None) -> None:
    for code in codes:
        if not LANGUAGE_CODE.fullmatch(code):
            raise SettingsError(f"{code!r} is not an ISO 639 code: give two or three lower-case letters, such as it")
    if out.suffix != SUFFIX or out.is_dir():
        raise SettingsError(f"--out must name a file that ends in {SUFFIX}, and no folder, got {out}")
    if continued and continued.resolve() == out.resolve():
        raise SettingsError(f"{out} is the package that training continues from: give another name with --out")
    if continued and held_out:
        raise SettingsError(
            f"--held-out {held_out} cannot be used: a training that continues from {continued} keeps its held-out "
            "pairs, because it may have trained on any others. Remove --held-out"
        )


def training_folder(out: Path) -> Path:
    """Return the folder of the training that writes the package `out`."""
    return out.with_name(f"{out.name}.training")


def _read_earlier(package: Path, codes: tuple[str, str]) -> tuple[str, dict[str, Any], list[Pair]]:
    """Return key, sizes and held-out pairs of the training of an earlier package, which must have ended."""
    folder = training_folder(package)
    remedy = (
        "give a package of `mt train` whose training has ended, with its folder beside it, or restore that from a copy"
    )
    with about(f"{package} cannot be continued", kind=DamagedError, remedy=remedy):
        for path in (package, folder / WEIGHTS_FILE, folder / VOCABULARY_FILE):
            path.stat()
        run = read_json(folder / RUN_FILE)
        key, sizes = str(run["key"]), {name: run["config"][name] for name in SIZES}
        own = run["sources"]["from_code"], run["sources"]["to_code"]
        # Bytes are read, because in text mode a carriage return in a text would end its line.
        *lines, end = (folder / HELD_OUT_FILE).read_bytes().decode("utf-8").split("\n")
        held_out = [(source, target) for source, target in (line.split("\t") for line in lines)]
        if end or not held_out:
            raise ValueError(f"{HELD_OUT_FILE} is cut off")
    if own != codes:
        raise InputError(f"{package} translates {' to '.join(own)}, not {' to '.join(codes)}")
    return key, sizes, held_out


def _train(training: Training, key: str, start: Path | None) -> tuple[TranslationModel, RunState]:
    """Train, or resume, to the end; return the network with the weights of its best validation, and the final state."""
    folder, config, data = training.folder, training.config, training.data
    write_bytes(folder / HELD_OUT_FILE, _lines(data.held_out))
    vocabulary_file = folder / VOCABULARY_FILE
    if start:
        write_atomically(vocabulary_file, partial(shutil.copyfile, start / VOCABULARY_FILE))
    elif not vocabulary_file.is_file():
        texts = (text for pair in data.training for text in pair)
        write_atomically(vocabulary_file, lambda path: train_vocabulary(texts, path, size=config.vocabulary_size))
    vocabulary = load_vocabulary(vocabulary_file)
    token_pairs = (
        list(zip(*(vocabulary.encode([pair[side] for pair in pairs]) for side in (0, 1)), strict=True))
        for pairs in (data.training, data.held_out)
    )

    def score(network: TranslationModel) -> HeldOutScores:
        with _unpacked(training, network) as package:
            return _score(training, package, GREEDY)

    def report(state: RunState) -> None:
        write_report(training, state, task.texts, num_parameters=model.num_parameters)

    with deterministic_torch(seed=config.seed, num_threads=config.threads, device=TranslationTask.device):
        model = TranslationModel(replace(config, vocabulary_size=vocabulary.get_piece_size()))
        if start:
            load_weights(model, start / WEIGHTS_FILE)
        task = TranslationTask(model, *token_pairs, folder=folder, score=score)
        phase = Phase(
            name="train translation",
            steps=config.num_steps,
            rate=partial(learning_rate, config=config),
            patience=config.early_stop or math.inf,
        )
        every = config.validate_every_steps
        runner = Runner(task, [phase], folder=folder, key=key, validate_every=every, report=report)
        if not runner.state.step:
            report(runner.state)
        state = runner.run()
    task.restore()
    return model, state


def _key(training: Training) -> str:
    """Return the training's key: equal keys give equal packages."""
    # The pairs as well as their files, because language checks decide which pairs are dropped.
    pairs = {"training": training.data.training, "held_out": training.data.held_out}
    return digest(
        {
            "version": _VERSION,
            **_made_of(training),
            "pairs": {name: hashlib.sha256(_lines(found)).hexdigest() for name, found in pairs.items()},
            "dropped": training.data.dropped,
            "libraries": {name: importlib.metadata.version(name) for name in _LIBRARIES},
        }
    )


def _lines(pairs: Iterable[Pair]) -> bytes:
    return "".join(f"{source}\t{target}\n" for source, target in pairs).encode()


def _made_of(training: Training) -> dict[str, Any]:
    return {"sources": asdict(training.sources), "config": asdict(training.config)}


def _replace_record(training: Training, key: str) -> None:
    """Write the record of a training that begins, in place of one without a state, whose settings may not work."""
    folder = training.folder
    if (folder / STATE_FILE).is_file():
        raise SettingsError(
            f"{folder} contains a training with other settings, pairs or libraries: remove it to train again, or give "
            "another --out"
        )
    # The vocabulary of the other training must be removed before the record of this one is written.
    (folder / VOCABULARY_FILE).unlink(missing_ok=True)
    write_json(folder / RUN_FILE, {"key": key, **_made_of(training)})


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


def _pack(training: Training, model: TranslationModel, state: RunState, out: Path) -> TrainReport:
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
            best_step=state.best_record["step"],
            held_out_loss=state.best_record["val_loss"],
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

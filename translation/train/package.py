"""Train a translation package: a TSV of parallel captions in, an `.argosmodel` that Argos Translate reads out."""

import logging
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from data_catalog.errors import SettingsError
from data_catalog.stages import Check
from data_catalog.storage.lock import writer_lock
from data_catalog.storage.shards import sha256_of, sweep_temporary, write_atomically, write_bytes
from translation.packages.archive import pack
from translation.train.card import TrainReport, language_name, write_card
from translation.train.config import TrainPackageConfig
from translation.train.folder import Earlier, Sources, open_earlier, training_folder
from translation.train.pairs import Pair, ParallelCaptions, read_pairs
from translation.train.training import DECODING, Training, num_parameters

logger = logging.getLogger(__name__)

SUFFIX = ".argosmodel"
ARGOS_VERSION = "1.9"  # oldest Argos Translate that we support
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
        source_check: drops sources in another language (cleaning's `caption_language`); None: not checked.
        target_check: the same of targets.

    Raises:
        SettingsError: the codes or the name cannot be used, or training has diverged.
        InputError: the pairs cannot be used, nor what is continued.
        DamagedError: the training's own folder is damaged.
        BusyError: another process trains there.
    """
    _check_arguments(from_code, to_code, out)
    config = _counted(config)
    if continued:
        _check_continued(continued, held_out, out)
    earlier = None
    if continued:
        earlier = open_earlier(continued, from_code=from_code, to_code=to_code)
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
        training = Training(
            folder=folder, data=data, sources=sources, config=config, metadata=metadata, earlier=earlier
        )
        return _pack(training, out)


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


def _counted(config: TrainPackageConfig) -> TrainPackageConfig:
    """The settings with the number of threads that torch would take, if they have none."""
    import torch

    return config if config.threads else replace(config, threads=torch.get_num_threads())


def _check_arguments(from_code: str, to_code: str, out: Path) -> None:
    for code in (from_code, to_code):
        if not LANGUAGE_CODE.fullmatch(code):
            raise SettingsError(f"{code!r} is no ISO 639 code: give two or three lower-case letters, such as it")
    if from_code == to_code:
        raise SettingsError(f"the package would translate {from_code} to itself: give two different languages")
    if out.suffix != SUFFIX:
        raise SettingsError(f"the package's name must end in {SUFFIX}, got {out.name}")
    if out.is_dir():
        raise SettingsError(f"{out} is a folder: give the name of a file with --out")


def _check_continued(continued: Path, held_out: Path | None, out: Path) -> None:
    if continued.resolve() == out.resolve():
        raise SettingsError(f"{out} is the package to continue from: give another name with --out")
    if held_out:
        raise SettingsError(
            f"{held_out}: what continues from {continued} is scored on the pairs held out then, since it may have been "
            "trained on any others: leave out --held-out"
        )


def _pack(training: Training, out: Path) -> TrainReport:
    """Train to the end, measure the package as it will be used, and write it."""
    data, sources, config = training.data, training.sources, training.config
    model, state = training.run()
    with training.unpacked(model) as package:
        texts = training.translate_held_out(package, DECODING)
        scores = training.score(texts)
        exact = sum(text == target for text, (_, target) in zip(texts, data.held_out, strict=True))
        report = TrainReport(
            num_training=len(data.training),
            num_held_out=len(data.held_out),
            dropped=data.dropped,
            num_parameters=num_parameters(model),
            vocabulary_size=model.shape.vocabulary_size,
            num_steps=state.step,
            best_step=state.best.step,
            held_out_loss=state.best.held_out_loss,
            exact_match=exact / len(data.held_out),
            bleu=scores.bleu,
            chrf=scores.chrf,
        )
        write_card(package / "README.md", training.metadata, report, sources=sources, config=config)
        top = f"translate-{sources.from_code}_{sources.to_code}-{config.package_version.replace('.', '_')}"
        digest = write_atomically(out, lambda temporary: pack(package, temporary, top=top))
    sidecar = out.with_name(out.name + ".sha256")
    write_bytes(sidecar, f"{digest}  {out.name}\n".encode())
    training.write_report(model, state, texts, report)
    return report

"""Export trained models to folders, atomically, each checked to score like the model and described by a card.

As for datasets, `export.json` is written last. It states what the export was made from, and the sha256 of every file.
`run.json` is the model's own with the license of the export (`training.towers.lineage`).
"""

import logging
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

from data_catalog.base.errors import SettingsError
from data_catalog.base.progress import Progress
from data_catalog.catalog.manifest import EXPORT_RECORD, RUN_FILE, trained_on
from data_catalog.disk.files import digest, sha256_of, write_bytes, write_json
from data_catalog.disk.records import write_checksummed
from data_catalog.exports.card import CARD_FILE
from data_catalog.exports.export_folder import export_lock, is_whole, record_of, replace_folder, resolve_export_folder
from data_catalog.exports.rights import FREE, read_license, strictness
from training.exports import hugging_face, onnx_graphs, open_clip_hub
from training.exports.formats import ALL, MODEL_FORMATS, ModelExportConfig
from training.exports.model_card import TrainingData, model_card, read_scores
from training.exports.trained_folder import (
    Format,
    TrainedFolder,
    encode_by_model,
    open_trained,
    quiet_libraries,
    require_same,
)
from training.towers.lineage import LICENSE, MODEL_KIND

logger = logging.getLogger(__name__)

VERSION = 5  # raise it when the files for the same model and config change
FORMATS: Mapping[str, Format] = {"open_clip": open_clip_hub, "transformers": hugging_face, "onnx": onnx_graphs}
_ELSEWHERE = "choose another folder with --out"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelExport:
    """An export in one format; `difference` is the largest one of a feature or cosine from the model's."""

    format: str
    folder: Path
    num_bytes: int
    up_to_date: bool
    difference: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelExportReport:
    """The exports that were made, and by format the reason why `ALL` left it out."""

    exports: tuple[ModelExport, ...]
    refused: Mapping[str, str]


def export_model(
    model: Path, config: ModelExportConfig, out: Path, *, seen: TrainingData | None, root: Path
) -> ModelExportReport:
    """Export a trained model. Keep exports that are up to date.

    Several formats go into one subfolder of `out` each, and none into the own folders of the catalog at `root`. `seen`
    is the training data of the model, if it is known. The loss of a lower precision is measured on `validation`.
    """
    for hub_name in filter(None, (config.hub_name, config.dataset_hub_name)):
        _require_hub_name(hub_name)
    if (config.license == "other") != bool(config.license_name):
        raise SettingsError("--license-name names the license of --license other: state both, or neither")
    trained = open_trained(model)
    _require_compatible_license(trained, config.terms)
    wanted, refused = _formats(trained, config)
    single = len(wanted) + len(refused) == 1
    places = {name: resolve_export_folder(out if single else out / name, root) for name in wanted}
    for place in places.values():
        if place.is_relative_to(model.resolve()) or model.resolve().is_relative_to(place):
            raise SettingsError(f"one of {place} and the model folder {model} contains the other: {_ELSEWHERE}")
        if seen is None and place.is_relative_to(root.resolve()):
            raise SettingsError(
                f"{out} is inside the catalog {root}. `vernaclip forget` would remove this export, because the "
                f"training data of the model is not known: {_ELSEWHERE}"
            )
    known = (seen.manifest["dataset"], seen.manifest["snapshot"]) if seen else trained_on(model)
    scores = read_scores(trained, config.scoreboards, seen)
    with ExitStack() as stack:
        jobs = []
        for name, place in places.items():  # lock and check all folders before work starts
            stack.enter_context(export_lock(place))
            card = model_card(trained, config, seen, scores, library=name)
            identity = {
                "kind": MODEL_KIND,
                **dict(zip(("dataset", "snapshot"), known or (None, None), strict=True)),
                "format": name,
                "model": trained.result.key,
                "model_sha256": trained.loaded.sha256,
                "hub_name": config.hub_name,
                "card": digest(card),
                "run": digest(trained.run),
                "version": VERSION,
            }
            jobs.append((place, card, identity, _earlier_record(place, identity, replace=config.replace)))
        exports = []
        with Progress("export model", total=len(jobs), unit="formats") as progress:
            for place, card, identity, earlier in jobs:
                record = earlier or _write(trained, config, place, card, identity)
                found = ModelExport(
                    format=record["format"],
                    folder=place,
                    num_bytes=sum(record["bytes"].values()),
                    up_to_date=earlier is not None,
                    difference=float(record["difference"]),
                )
                exports.append(found)
                progress.advance(1)
    return ModelExportReport(exports=tuple(exports), refused=refused)


def _formats(trained: TrainedFolder, config: ModelExportConfig) -> tuple[list[str], dict[str, str]]:
    """Return the formats to write and, of `ALL`, the reason for each that has no equivalent of the model."""
    wanted = tuple(MODEL_FORMATS) if ALL in config.formats else config.formats
    reasons = {name: kind.why_not(trained.model_config, trained.encoder) for name, kind in FORMATS.items()}
    refused = {name: reason for name in wanted if (reason := reasons[name]) is not None}
    if refused and ALL not in config.formats:
        name, reason = next(iter(refused.items()))
        others = ", ".join(other for other in FORMATS if reasons[other] is None)
        raise SettingsError(
            f"the format {name} has no equivalent of this model, because {reason}. Supported formats: {others}"
        )
    if "onnx" in wanted:
        onnx_graphs.require_packages()
    return [name for name in wanted if name not in refused], refused


def _write(
    trained: TrainedFolder, config: ModelExportConfig, place: Path, card: str, identity: Mapping[str, Any]
) -> dict[str, Any]:
    """Write an export, compare it with the model, move it to its folder, and return its record."""
    size, kind = trained.loaded.image_size, FORMATS[identity["format"]]
    with replace_folder(place) as folder:
        with quiet_libraries(), torch.no_grad():
            pixels = torch.randn(3, 3, size, size, generator=torch.Generator().manual_seed(0))
            kind.write(trained, folder, config.hub_name)
            ours, theirs = encode_by_model(trained, pixels), kind.encode(folder, pixels)
            difference = require_same(ours, theirs, f"the export to {identity['format']}")
        write_bytes(folder / CARD_FILE, card.encode())
        write_json(folder / RUN_FILE, {**trained.run, LICENSE: config.terms})
        written = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
        record = {
            **identity,
            "files": {name: sha256_of(path) for name, path in written.items()},
            "bytes": {name: path.stat().st_size for name, path in written.items()},
            "difference": difference,
        }
        write_checksummed(folder / EXPORT_RECORD, record)
    return record


def _require_hub_name(name: str) -> None:
    """Refuse a name that no repository of the hub can have."""
    with suppress(HFValidationError):
        validate_repo_id(name)
        if "/" in name:
            return
    raise SettingsError(f"a name on the hub has the form OWNER/NAME, got {name!r}")


def _require_compatible_license(trained: TrainedFolder, license: str) -> None:
    """Refuse a license that allows what that of borrowed weights forbids; warn of those whose license is unknown."""
    stated = read_license(license)
    for weights in trained.lineage.borrowed:
        terms, theirs = weights["license"], read_license(weights["license"])
        which = f"the {weights['tower']} tower's initial weights ({weights['weights']}, {terms or 'no license'})"
        restricts = theirs is None or theirs.passing_on != FREE
        if not terms:
            logger.warning("the license of %s is not stated, so it is not checked", which)
        elif license and stated is None and restricts:
            logger.warning("the license %s is not known, so it is not compared with that of %s", license, which)
        elif stated is not None and theirs is not None and restricts and strictness(license) > strictness(terms):
            raise SettingsError(
                f"the license {license} allows what that of {which} forbids: state a license that is as strict"
            )


def _earlier_record(place: Path, identity: Mapping[str, Any], *, replace: bool) -> dict[str, Any] | None:
    """Return the record of an equal export in a folder; None if the folder is free, or may be replaced."""
    found = record_of(place)
    if found is None:
        return None
    if found.get("kind") != MODEL_KIND:
        raise SettingsError(f"{place} contains an export of a dataset: {_ELSEWHERE}")
    if is_whole(place, found) and all(found.get(name) == identity[name] for name in identity):
        return found
    if not replace:
        raise SettingsError(
            f"{place} contains an export of another model, or with other settings. Replace it with --force, or "
            f"{_ELSEWHERE}"
        )
    return None

"""Export trained models to folders, atomically, each checked to score like the model and described by a card.

As for datasets, `export.json` is written last. It states what the export was made from, and the sha256 of every file.
`run.json` is the model's own with the license of the export (`training.towers.lineage`).
"""

import difflib
import logging
import re
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

from data_catalog.base.errors import SettingsError
from data_catalog.base.progress import Progress
from data_catalog.catalog.manifest import EXPORT_RECORD, RUN_FILE, trained_on
from data_catalog.disk.files import digest, sha256_of, write_bytes, write_json
from data_catalog.disk.records import write_checksummed
from data_catalog.exports.export_folder import export_lock, is_whole, record_of, replace_folder, resolve_export_folder
from data_catalog.exports.hub import require_hub_name
from data_catalog.exports.rights import FREE, read_license, strictness
from training.exports.formats import ALL, MODEL_FORMATS
from training.exports.model_card import Publication, TrainingData, card_data, model_card
from training.exports.trained_folder import ModelWriter, Probe, TrainedFolder, make_probe, open_trained
from training.towers.lineage import LICENSE, MODEL_KIND

logger = logging.getLogger(__name__)

VERSION = 4  # raise it when the files for the same model and config change
CARD_FILE = "README.md"
OTHER = "other"  # a license that the hub has no id for
LIST_FILE = "hub_licenses.txt"  # taken from the hub's documentation, since no dependency contains the list
_LICENSE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
_LICENSE_LINK = re.compile(r"LICENSE|LICENSE\.md|https?://[^\s\"'<>]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelExportConfig(Publication):
    """Settings of an export.

    Args:
        formats: some of `MODEL_FORMATS`, or only `ALL` for every format with an equivalent of the architecture.
        hub_name: name on the Hugging Face hub, such as "somebody/clip-it". None for a local export.
        scoreboards: `scoreboard.json` files whose scores of the model are added to the card.
        replace: replace an earlier export of another model.
    """

    formats: tuple[str, ...]
    hub_name: str | None = None
    scoreboards: tuple[Path, ...] = ()
    replace: bool = False

    def __post_init__(self) -> None:
        known = (*MODEL_FORMATS, ALL)
        unknown = [name for name in self.formats if name not in known]
        if unknown or not self.formats:
            raise SettingsError(f"format must be some of {', '.join(known)}, got {', '.join(unknown) or 'none'}")
        if ALL in self.formats and len(self.formats) > 1:
            raise SettingsError(f"the format {ALL} includes every format: give it alone")
        for name in (self.hub_name, self.dataset_hub_name):
            if name is not None:
                require_hub_name(name)
        _require_hub_license(self.license, name=self.license_name, link=self.license_link)


def _require_hub_license(license: str, *, name: str, link: str) -> None:
    """Raise if the hub would reject the license.

    Args:
        license: id of the license on the hub, or "" if none is stated.
        name: name of a license without an id on the hub, with `other` only.
        link: address of its text, or "".

    Raises:
        SettingsError: the hub has no such license, or name and link do not match it.
    """
    listed = (files("training.exports") / LIST_FILE).read_text(encoding="utf-8").splitlines()
    known = [line for line in listed if not line.startswith("#")]
    if license and license not in known:
        near = difflib.get_close_matches(license.lower(), known, n=3)
        meant = f"did you mean {' or '.join(near)}? For another license," if near else "for another license,"
        raise SettingsError(
            f"the hub has no license {license!r} (https://huggingface.co/docs/hub/repositories-licenses): {meant} "
            f"use --license {OTHER} --license-name NAME"
        )
    if license == OTHER and not name:
        raise SettingsError(f"--license {OTHER} needs the license's name: add --license-name, such as my-license-1.0")
    if license != OTHER and (name or link):
        raise SettingsError(
            f"--license-name and --license-link need --license {OTHER}, for licenses without an id on the hub"
        )
    if name and not _LICENSE_NAME.fullmatch(name):
        raise SettingsError(
            f"--license-name may have letters, digits, '.', '-' and '_', such as my-license-1.0, got {name!r}"
        )
    if link and not _LICENSE_LINK.fullmatch(link):
        raise SettingsError(
            "--license-link must be an address (https://...), or LICENSE or LICENSE.md for a file of that name that "
            f"you add to the export, got {link!r}"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelExport:
    """An export in one format.

    Args:
        format: one of `MODEL_FORMATS`.
        folder: folder of the export.
        num_bytes: total size of its files.
        up_to_date: the export already existed, so nothing was written.
        difference: largest difference of a feature or cosine from the model's.
        needs: what the model needs beside the format's library, as a sentence, or "".
    """

    format: str
    folder: Path
    num_bytes: int
    up_to_date: bool
    difference: float
    needs: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelExportReport:
    """The exports that were made, and by format the reason why `ALL` left it out."""

    exports: tuple[ModelExport, ...]
    refused: Mapping[str, str]


def export_model(
    model: Path, config: ModelExportConfig, out: Path, *, seen: TrainingData | None, root: Path
) -> ModelExportReport:
    """Export a trained model. Keep exports that are up to date.

    Args:
        model: the model folder.
        out: folder of the export. Several formats go into one subfolder each.
        config: settings of the export.
        seen: the training data, if it is known.
        root: folder of the catalog. Exports may not replace its own folders.

    Raises:
        SettingsError: a format has no equivalent of the architecture, the license is laxer than that of initial
            weights, or a folder contains something else or an earlier
            export that may not be replaced.
        InputError: the model is not finished, or a format needs a package that is not installed.
        DamagedError: the model is damaged.
        BusyError: another process exports to a folder.
        DefectError: an export does not score like the model.
    """
    trained = open_trained(model)
    wanted = tuple(MODEL_FORMATS) if ALL in config.formats else tuple(dict.fromkeys(config.formats))
    _require_compatible_license(trained, config.license)
    refused = _refused(trained, wanted, config)
    places = {name: out if len(wanted) == 1 else out / name for name in wanted if name not in refused}
    writers = {name: MODEL_FORMATS[name].writer() for name in places}
    for writer in writers.values():
        writer.require()
    places = {name: _place(folder, model, root) for name, folder in places.items()}
    if seen is None and any(place.is_relative_to(root.resolve()) for place in places.values()):
        raise SettingsError(
            f"{out} is inside the catalog {root}. `vernaclip forget` would remove this export, because the training "
            "data of the model is not known. Choose another folder with --out"
        )
    known = (seen.manifest["dataset"], seen.manifest["snapshot"]) if seen else trained_on(model)
    dataset, snapshot = known or (None, None)
    data = card_data(model, seen, model_sha256=trained.loaded.sha256, scoreboards=config.scoreboards)
    exports = []
    with ExitStack() as stack:
        jobs = []
        for name, place in places.items():  # lock and check all folders before work starts
            stack.enter_context(export_lock(place))
            how_to_read = writers[name].how_to_read(trained, config.hub_name)
            card = model_card(trained, data, config, library=name, how_to_read=how_to_read)
            identity = {
                "kind": MODEL_KIND,
                "dataset": dataset,
                "snapshot": snapshot,
                "format": name,
                "model": trained.run["key"],
                "model_sha256": trained.loaded.sha256,
                "hub_name": config.hub_name,
                "card": digest(card),
                "run": digest(trained.run),
                "version": VERSION,
            }
            jobs.append(_Job(name, place, card, identity, _earlier_record(place, identity, replace=config.replace)))
        probe = make_probe(trained)
        with Progress("export model", total=len(jobs), unit="formats") as progress:
            for job in jobs:
                record = job.earlier or _write(job, writers[job.format], trained, probe, config)
                exports.append(
                    ModelExport(
                        format=job.format,
                        folder=job.place,
                        num_bytes=sum(record["bytes"].values()),
                        up_to_date=job.earlier is not None,
                        difference=float(record["difference"]),
                        needs=writers[job.format].needs(trained.model_config, trained.encoder),
                    )
                )
                progress.advance(1)
    return ModelExportReport(exports=tuple(exports), refused=refused)


def _require_compatible_license(trained: TrainedFolder, license: str) -> None:
    """Raise if the stated license allows what that of borrowed weights forbids; log those whose license is unknown.

    Raises:
        SettingsError: the weights forbid commercial use or changed copies, and the stated license allows it.
    """
    for weights in trained.borrowed:
        of_weights, stated = read_license(weights["license"]), read_license(license)
        if not weights["license"]:
            logger.warning(
                "the license of the %s tower's initial weights (%s) is not stated, so it is not checked",
                *(weights["tower"], weights["weights"]),
            )
            continue
        restricts = of_weights is not None and of_weights.passing_on != FREE and stated is not None
        if restricts and strictness(license) > strictness(weights["license"]):
            raise SettingsError(
                f"the license {license} allows what the initial weights of the {weights['tower']} tower "
                f"({weights['weights']}, {weights['license']}) forbid: state a license that is as strict"
            )


def _refused(trained: TrainedFolder, wanted: Sequence[str], config: ModelExportConfig) -> dict[str, str]:
    """Return the reasons why formats have no equivalent of the architecture. Raise if such a format was named.

    Raises:
        SettingsError: a named format has no equivalent of the architecture.
    """
    reasons = {
        name: kind.writer().why_not(trained.model_config, trained.encoder) for name, kind in MODEL_FORMATS.items()
    }
    refused = {name: reason for name in wanted if (reason := reasons[name]) is not None}
    if refused and ALL not in config.formats:
        name, reason = next(iter(refused.items()))
        others = ", ".join(other for other in MODEL_FORMATS if reasons[other] is None)
        raise SettingsError(
            f"the format {name} has no equivalent of this model, because {reason}. Supported formats: {others}"
        )
    return refused


def _place(folder: Path, model: Path, root: Path) -> Path:
    place = resolve_export_folder(folder, root)
    if place.is_relative_to(model.resolve()) or model.resolve().is_relative_to(place):
        raise SettingsError(
            f"one of {folder} and the model folder {model} contains the other: choose another folder with --out"
        )
    return place


class _Job(NamedTuple):
    """An export to be written.

    Args:
        format: one of `MODEL_FORMATS`.
        place: folder of the export.
        card: text of the model card.
        identity: values that identify the export's content, as in JSON.
        earlier: the record of an identical export in that folder, if there is one.
    """

    format: str
    place: Path
    card: str
    identity: Mapping[str, Any]
    earlier: Mapping[str, Any] | None


def _earlier_record(place: Path, identity: Mapping[str, Any], *, replace: bool) -> Mapping[str, Any] | None:
    """Return the record of an identical export in a folder, or None if the folder is free or may be replaced.

    Raises:
        SettingsError: the folder contains something else.
    """
    found = record_of(place)
    if found is not None and found.get("kind") != MODEL_KIND:
        raise SettingsError(f"{place} contains an export of a dataset: choose another folder with --out")
    if found is not None and is_whole(place, found) and all(found.get(name) == identity[name] for name in identity):
        return found
    if found is not None and not replace:
        raise SettingsError(
            f"{place} contains an export of another model, or with other settings. Replace it with --force, or choose "
            "another folder with --out"
        )
    return None


def _write(
    job: _Job, writer: ModelWriter, trained: TrainedFolder, probe: Probe, config: ModelExportConfig
) -> Mapping[str, Any]:
    """Write and check an export, move it to its folder, and return its record."""
    with replace_folder(job.place) as folder:
        writer.write(trained, folder, config.hub_name)
        difference = writer.check(trained, probe, folder)
        write_bytes(folder / CARD_FILE, job.card.encode())
        write_json(folder / RUN_FILE, {**trained.run, LICENSE: config.license_name or config.license})
        written = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
        record = {
            **job.identity,
            "files": {name: sha256_of(path) for name, path in written.items()},
            "bytes": {name: path.stat().st_size for name, path in written.items()},
            "difference": difference,
        }
        write_checksummed(folder / EXPORT_RECORD, record)
    return record

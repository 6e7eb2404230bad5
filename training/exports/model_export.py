"""Exports of a trained model: folders that are whole or absent, each proven to score as the model does, with a card.

As with a dataset, `export.json`, written last, says what an export was made from, and the sha256 of every file.
"""

import difflib
import re
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

from data_catalog.errors import SettingsError
from data_catalog.exports.place import exporting_to, is_whole, place_of, record_of, replacing
from data_catalog.progress import Progress
from data_catalog.storage.integrity import write_checksummed
from data_catalog.storage.manifest import EXPORT_RECORD
from data_catalog.storage.shards import digest, sha256_of, write_bytes
from training.exports.formats import ALL, MODEL_FORMATS
from training.exports.model_card import Publication, SeenData, card_data, model_card
from training.exports.trained_folder import ModelWriter, Probe, TrainedFolder, make_probe, open_trained

VERSION = 2  # raise it when the files for one and the same model and config change
CARD_FILE = "README.md"
_HUB_PART = r"(?=[^/]{1,96}(?:/|\Z))[A-Za-z0-9_]+(?:[.-][A-Za-z0-9_]+)*"
_HUB_NAME = re.compile(f"{_HUB_PART}/{_HUB_PART}")  # no part has two dashes or dots in a row, or one of them at an end
_KIND = "model"  # which records of datasets do not say
OTHER = "other"  # a license of which the hub has no name
LIST_FILE = "hub_licenses.txt"  # a list that no package has which we depend on
_LICENSE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
_LICENSE_LINK = re.compile(r"LICENSE|LICENSE\.md|https?://[^\s\"'<>]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelExportConfig(Publication):
    """What is exported.

    Args:
        formats: some of `MODEL_FORMATS`, or `ALL` alone for every one that the architecture has an equivalent in.
        hub_name: under which it goes to the Hugging Face hub, such as "somebody/clip-it"; None for disk only.
        scoreboards: `scoreboard.json` files, whose scores of the model go into its card.
        replace: whether an earlier export of ours may be replaced.
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
            raise SettingsError(f"the format {ALL} stands for every one: name it alone")
        for name in (self.hub_name, self.dataset_hub_name):
            if name is not None and (not _HUB_NAME.fullmatch(name) or name.endswith(".git")):
                raise SettingsError(f"a name on the hub is OWNER/NAME, got {name!r}")
        _require_hub_license(self.license, name=self.license_name, link=self.license_link)


def _require_hub_license(license: str, *, name: str, link: str) -> None:
    """Refuse a license that the hub would refuse.

    Args:
        license: in the hub's spelling; "" where none is stated.
        name: of a license that the hub does not know, which goes with `other` and with nothing else.
        link: to the text of that; "" for none.

    Raises:
        SettingsError: the hub knows no such license, or name and link do not go with it.
    """
    listed = (files("training.exports") / LIST_FILE).read_text(encoding="utf-8").splitlines()
    known = [line for line in listed if not line.startswith("#")]
    if license and license not in known:
        near = difflib.get_close_matches(license.lower(), known, n=3)
        meant = f"did you mean {' or '.join(near)}? If it is none of the hub's" if near else "if it is none of those"
        raise SettingsError(
            f"the hub knows no license {license!r} (https://huggingface.co/docs/hub/repositories-licenses): {meant}, "
            f"say --license {OTHER} --license-name NAME"
        )
    if license == OTHER and not name:
        raise SettingsError(
            f"--license {OTHER} wants the license's own name: say --license-name, such as my-license-1.0"
        )
    if license != OTHER and (name or link):
        raise SettingsError(
            f"--license-name and --license-link go with --license {OTHER}, for what the hub has no word"
        )
    if name and not _LICENSE_NAME.fullmatch(name):
        raise SettingsError(
            f"--license-name is letters, digits, '.', '-' and '_', such as my-license-1.0, got {name!r}"
        )
    if link and not _LICENSE_LINK.fullmatch(link):
        raise SettingsError(
            "--license-link is an address (https://...), or LICENSE or LICENSE.md for a file of that name that you add "
            f"to the export, got {link!r}"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelExport:
    """One export.

    Args:
        format: one of `MODEL_FORMATS`.
        folder: where it lies.
        num_bytes: of its files.
        up_to_date: nothing was done, since it was there already.
        difference: most by which a feature or a cosine differs from the model's.
    """

    format: str
    folder: Path
    num_bytes: int
    up_to_date: bool
    difference: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelExportReport:
    """What an export came to; `refused` says which formats of `ALL` the architecture has no equivalent in, and why."""

    exports: tuple[ModelExport, ...]
    refused: Mapping[str, str]


def export_model(
    model: Path, config: ModelExportConfig, out: Path, *, seen: SeenData | None, root: Path
) -> ModelExportReport:
    """Write exports of a trained model, or find that they are there.

    Args:
        model: the model's folder.
        out: where the export goes; of several formats, each goes into a folder in it.
        seen: what the model was trained on, if that is known.
        root: of the catalog; its own folders hold no exports.

    Raises:
        SettingsError: a format has no equivalent of the model's architecture, or a folder holds something else, or an
            earlier export that may not be replaced.
        InputError: the model is not finished, or a format needs what is not installed.
        DamagedError: the model is damaged.
        BusyError: another process exports to a folder.
        DefectError: an export scores otherwise than the model.
    """
    trained = open_trained(model)
    wanted = tuple(MODEL_FORMATS) if ALL in config.formats else tuple(dict.fromkeys(config.formats))
    refused = _refused(trained, wanted, config)
    places = {name: out if len(wanted) == 1 else out / name for name in wanted if name not in refused}
    writers = {name: MODEL_FORMATS[name].writer() for name in places}
    for writer in writers.values():
        writer.require()
    places = {name: _place(folder, model, root) for name, folder in places.items()}
    if seen is None and any(place.is_relative_to(root.resolve()) for place in places.values()):
        raise SettingsError(
            f"{out} lies in the catalog {root}, where `vernaclip forget` removes exports of which nobody can tell what "
            "they were made of, as of a model by its folder: name another place with --out"
        )
    data = card_data(model, seen, model_sha256=trained.loaded.sha256, scoreboards=config.scoreboards)
    exports = []
    with ExitStack() as stack:
        jobs = []
        for name, place in places.items():  # all of them, before work starts
            stack.enter_context(exporting_to(place))
            how_to_read = writers[name].how_to_read(trained, config.hub_name)
            card = model_card(trained, data, config, library=name, how_to_read=how_to_read)
            identity = {
                "kind": _KIND,
                "dataset": seen.manifest["dataset"] if seen else None,
                "snapshot": seen.manifest["snapshot"] if seen else None,
                "format": name,
                "model": trained.run["key"],
                "model_sha256": trained.loaded.sha256,
                "hub_name": config.hub_name,
                "card": digest(card),
                "place": digest(str(place)),  # open_clip's config names it
                "version": VERSION,
            }
            jobs.append(_Job(name, place, card, identity, _earlier_record(place, identity, replace=config.replace)))
        probe = make_probe(trained)
        with Progress("export model", total=len(jobs), unit="formats") as progress:
            for job in jobs:
                record = job.earlier or _write(job, writers[job.format], trained, probe, config.hub_name)
                exports.append(
                    ModelExport(
                        format=job.format,
                        folder=job.place,
                        num_bytes=sum(record["bytes"].values()),
                        up_to_date=job.earlier is not None,
                        difference=float(record["difference"]),
                    )
                )
                progress.advance(1)
    return ModelExportReport(exports=tuple(exports), refused=refused)


def _refused(trained: TrainedFolder, wanted: Sequence[str], config: ModelExportConfig) -> dict[str, str]:
    """Return why the architecture has no equivalent in some formats; refuse those that were named."""
    reasons = {name: kind.writer().why_not(trained.model_config) for name, kind in MODEL_FORMATS.items()}
    refused = {name: reason for name in wanted if (reason := reasons[name]) is not None}
    if refused and ALL not in config.formats:
        name, reason = next(iter(refused.items()))
        others = ", ".join(other for other in MODEL_FORMATS if reasons[other] is None)
        raise SettingsError(f"the format {name} has no equivalent of this model, since {reason}: export it to {others}")
    return refused


def _place(folder: Path, model: Path, root: Path) -> Path:
    place = place_of(folder, root)
    if place.is_relative_to(model.resolve()) or model.resolve().is_relative_to(place):
        raise SettingsError(
            f"{folder} and the model's own folder {model} lie in one another: name another place with --out"
        )
    return place


class _Job(NamedTuple):
    """One export to be made.

    Args:
        format: one of `MODEL_FORMATS`.
        place: where it goes.
        card: of the model.
        identity: what it is made from, as JSON gives it back.
        earlier: the record of this very export, where the place holds it.
    """

    format: str
    place: Path
    card: str
    identity: Mapping[str, Any]
    earlier: Mapping[str, Any] | None


def _earlier_record(place: Path, identity: Mapping[str, Any], *, replace: bool) -> Mapping[str, Any] | None:
    """Return the record of this very export if it is there; None where the place is free, or may be replaced.

    Raises:
        SettingsError: it holds something else.
    """
    found = record_of(place)
    if found is not None and found.get("kind") != _KIND:
        raise SettingsError(f"{place} holds an export of a dataset: name another place with --out")
    if found is not None and is_whole(place, found) and all(found.get(name) == identity[name] for name in identity):
        return found
    if found is not None and not replace:
        raise SettingsError(
            f"{place} holds an export of another model, or one made otherwise: replace it with --force, or name "
            "another place with --out"
        )
    return None


def _write(
    job: _Job, writer: ModelWriter, trained: TrainedFolder, probe: Probe, hub_name: str | None
) -> Mapping[str, Any]:
    """Write an export, prove it, and put it in its place; returns its record."""
    with replacing(job.place) as folder:
        writer.write(trained, folder, job.place, hub_name)
        difference = writer.check(trained, probe, folder)
        write_bytes(folder / CARD_FILE, job.card.encode())
        written = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
        record = {
            **job.identity,
            "files": {name: sha256_of(path) for name, path in written.items()},
            "bytes": {name: path.stat().st_size for name, path in written.items()},
            "difference": difference,
        }
        write_checksummed(folder / EXPORT_RECORD, record)
    return record

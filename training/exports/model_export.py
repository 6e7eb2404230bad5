"""Exports of a trained model: folders that are whole or absent, each proven to score as the model does, with a card.

As with a dataset, `export.json`, written last, says what an export was made from, and the sha256 of every file.
"""

import difflib
import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from data_catalog.errors import SettingsError
from data_catalog.exports.place import RECORD_FILE, exporting_to, is_whole, place_of, record_of, replacing
from data_catalog.progress import Progress
from data_catalog.storage.integrity import write_checksummed
from data_catalog.storage.shards import digest, sha256_of, write_bytes
from training.exports.card_data import CardData, SeenData, card_data
from training.exports.card_head import Publication
from training.exports.formats import MODEL_FORMATS, Target
from training.exports.model_card import model_card
from training.exports.probe import Probe, make_probe
from training.exports.source import TrainedFolder, open_trained

ALL = "all"
VERSION = 1  # raise it when the files for one and the same model and config change
CARD_FILE = "README.md"
_HUB_PART = r"(?=[^/]{1,96}(?:/|\Z))[A-Za-z0-9_]+(?:[.-][A-Za-z0-9_]+)*"
_HUB_NAME = re.compile(f"{_HUB_PART}/{_HUB_PART}")
_KIND = "model"  # which records of datasets do not say
OTHER = "other"  # a license of which the hub has no name
LIST_FILE = "hub_licenses.txt"  # a list that no package has which we depend on
_LICENSE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
_LICENSE_LINK = re.compile(r"LICENSE|LICENSE\.md|https?://[^\s\"'<>]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelExportConfig:
    """What is exported.

    Args:
        formats: some of `MODEL_FORMATS`, or `ALL` alone for every one that the architecture has an equivalent in.
        name: of the model, in its card.
        license: that the user states for it, in the hub's spelling; "" for none.
        license_name: of one that the hub has no word for, where `license` is "other".
        license_link: to the text of that; "" for none.
        hub_name: under which it goes to the Hugging Face hub, such as "somebody/clip-it"; None for disk only.
        dataset_hub_name: under which the dataset that it was trained on lies there; None where it does not.
        scoreboards: `scoreboard.json` files, whose scores of the model go into its card.
        replace: whether an earlier export of ours may be replaced.
    """

    formats: tuple[str, ...]
    name: str
    license: str = ""
    license_name: str = ""
    license_link: str = ""
    hub_name: str | None = None
    dataset_hub_name: str | None = None
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
            if name is not None and not _is_hub_name(name):
                raise SettingsError(f"a name on the hub is OWNER/NAME, got {name!r}")
        require_hub_license(self.license, name=self.license_name, link=self.license_link)

    def publication(self) -> Publication:
        """What the card says of it that nothing here can know."""
        return Publication(
            name=self.name,
            license=self.license,
            license_name=self.license_name,
            license_link=self.license_link,
            dataset_hub_name=self.dataset_hub_name,
        )


def _is_hub_name(name: str) -> bool:
    """As the hub has it: two parts, none with two dashes or dots in a row, or one of them at an end."""
    return _HUB_NAME.fullmatch(name) is not None and not name.endswith(".git")


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
    refused = _refused(trained, config)
    formats = [name for name in _wanted(config) if name not in refused]
    for name in formats:
        MODEL_FORMATS[name].require()
    is_one = len(_wanted(config)) == 1
    places = {name: _place(out if is_one else out / name, model, root) for name in formats}
    if seen is None and any(place.is_relative_to(root.resolve()) for place in places.values()):
        raise SettingsError(
            f"{out} lies in the catalog {root}, where `vernaclip forget` removes exports of which nobody can tell what "
            "they were made of, as of a model by its folder: name another place with --out"
        )
    data = card_data(model, seen, model_sha256=trained.loaded.sha256, scoreboards=config.scoreboards)
    jobs = [_Job(trained=trained, data=data, config=config, format=name, place=places[name]) for name in formats]
    with ExitStack() as stack:
        for job in jobs:
            stack.enter_context(exporting_to(job.place))
            job.require_place()  # of all, before work starts
        probe = make_probe(trained)
        with Progress("export model", total=len(jobs), unit="formats") as progress:
            exports = list(_done(jobs, probe, progress))
    return ModelExportReport(exports=tuple(exports), refused=refused)


def _wanted(config: ModelExportConfig) -> tuple[str, ...]:
    return tuple(MODEL_FORMATS) if ALL in config.formats else tuple(dict.fromkeys(config.formats))


def _refused(trained: TrainedFolder, config: ModelExportConfig) -> dict[str, str]:
    found = {name: MODEL_FORMATS[name].why_not(trained.model_config) for name in _wanted(config)}
    refused = {name: reason for name, reason in found.items() if reason is not None}
    if refused and ALL not in config.formats:
        name, reason = next(iter(refused.items()))
        others = ", ".join(
            other for other in MODEL_FORMATS if MODEL_FORMATS[other].why_not(trained.model_config) is None
        )
        raise SettingsError(f"the format {name} has no equivalent of this model, since {reason}: export it to {others}")
    return refused


def _place(folder: Path, model: Path, root: Path) -> Path:
    place = place_of(folder, root)
    if place.is_relative_to(model.resolve()) or model.resolve().is_relative_to(place):
        raise SettingsError(
            f"{folder} and the model's own folder {model} lie in one another: name another place with --out"
        )
    return place


def _done(jobs: list["_Job"], probe: Probe, progress: Progress) -> Iterator[ModelExport]:
    for job in jobs:
        yield job.run(probe)
        progress.advance(1)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    """One export to be made."""

    trained: TrainedFolder
    data: CardData
    config: ModelExportConfig
    format: str
    place: Path

    def require_place(self) -> None:
        """Make sure that the place is free, holds this very export, or one that may be replaced.

        Raises:
            SettingsError: it does not.
        """
        found = record_of(self.place)
        if found is not None and found.get("kind") != _KIND:
            raise SettingsError(f"{self.place} holds an export of a dataset: name another place with --out")
        if found is None or self.config.replace or self._is_this(found):
            return
        raise SettingsError(
            f"{self.place} holds an export of another model, or one made otherwise: replace it with --force, or name "
            "another place with --out"
        )

    def run(self, probe: Probe) -> ModelExport:
        """Write the export, prove it, and put it in its place; or find that it is there."""
        found = record_of(self.place)
        if found is not None and self._is_this(found):
            return self._report(found, up_to_date=True)
        kind = MODEL_FORMATS[self.format]
        with replacing(self.place) as folder:
            kind.write(self.trained, self._target(folder))
            difference = kind.check(self.trained, probe, folder)
            write_bytes(folder / CARD_FILE, self._card().encode())
            files = sorted(path for path in folder.rglob("*") if path.is_file())
            record = {
                **self._identity(),
                "files": {path.relative_to(folder).as_posix(): sha256_of(path) for path in files},
                "bytes": {path.relative_to(folder).as_posix(): path.stat().st_size for path in files},
                "difference": difference,
            }
            write_checksummed(folder / RECORD_FILE, record)
        return self._report(record, up_to_date=False)

    def _target(self, folder: Path) -> Target:
        return Target(folder=folder, place=self.place, hub_name=self.config.hub_name)

    def _card(self) -> str:
        told = MODEL_FORMATS[self.format].card(self.trained, self._target(self.place))
        return model_card(self.trained, self.data, told, self.config.publication())

    def _is_this(self, record: Mapping[str, Any]) -> bool:
        wanted = self._identity()
        return is_whole(self.place, record) and all(record.get(name) == wanted[name] for name in wanted)

    def _identity(self) -> dict[str, Any]:
        """What an export is made from; as JSON gives it back."""
        seen = self.data.seen.manifest if self.data.seen is not None else None
        return {
            "kind": _KIND,
            "dataset": seen["dataset"] if seen else None,
            "snapshot": seen["snapshot"] if seen else None,
            "format": self.format,
            "model": self.trained.run.get("key"),
            "model_sha256": self.trained.loaded.sha256,
            "hub_name": self.config.hub_name,
            "card": digest(self._card()),
            "place": digest(str(self.place)),  # open_clip's config names it
            "version": VERSION,
        }

    def _report(self, record: Mapping[str, Any], *, up_to_date: bool) -> ModelExport:
        return ModelExport(
            format=self.format,
            folder=self.place,
            num_bytes=sum(record["bytes"].values()),
            up_to_date=up_to_date,
            difference=float(record["difference"]),
        )


def hub_licenses() -> list[str]:
    """The identifiers that the hub takes."""
    text = (files("training.exports") / LIST_FILE).read_text(encoding="utf-8")
    return [line for line in text.splitlines() if not line.startswith("#")]


def require_hub_license(license: str, *, name: str = "", link: str = "") -> None:
    """Refuse what the hub would.

    Args:
        license: in the hub's spelling; "" where none is stated.
        name: of a license that the hub does not know, which goes with `other` and with nothing else.
        link: to the text of that; "" for none.

    Raises:
        SettingsError: the hub knows no such license, or name and link do not go with it.
    """
    if license and license not in (known := hub_licenses()):
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

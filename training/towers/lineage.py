"""Read what a model was made of: the record that lies beside its weights, and travels with every export.

It is `run.json`, which `claim` writes: the settings, the pair shards that decided the weights, and the weights
of other people that the model started from, with their licenses. An export's has the export's license too.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from data_catalog.base.boundary import about
from data_catalog.base.errors import DamagedError, InputError
from data_catalog.catalog.manifest import EXPORT_RECORD, RUN_FILE
from training.towers.model import REMEDY, read_object

LICENSE = "license"  # in the `run.json` of an export: its license, "" if none was stated
MODEL_KIND = "model"  # kind of the `export.json` of a model; those of datasets have no kind


@dataclass(frozen=True, slots=True, kw_only=True)
class Lineage:
    """The settings, data and borrowed weights that a model was made of.

    `learned` has the sha256 of the pair shards that decided its weights, also through its start and its teacher. An
    export by an earlier version does not tell: the sha256 of its weights, which is no shard's, then makes what it
    learned unknown.
    """

    settings: Mapping[str, Any] = field(default_factory=dict)  # of its run; {} for other people's models
    learned: Sequence[str] | None = None  # None for other people's models
    borrowed: Sequence[dict[str, str]] = ()  # of other people: `tower`, `weights` (a name), `license` (may be "")
    license: str | None = ""  # of the folder's weights themselves, "" if it states none; None: it is no export

    def borrowed_of(self, towers: Mapping[str, str], name: str) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
        """Return what a model borrows that starts from some towers: earlier borrowed weights, and those of the folder.

        `towers` has the license that the settings state for each; that of an export binds, whatever they state. `name`
        is that of the folder's weights.
        """
        own = [{"tower": tower, "weights": name, "license": self.license or stated} for tower, stated in towers.items()]
        return [one for one in self.borrowed if one["tower"] in towers], own if self.license is not None else []


def languages_of(folder: Path) -> list[str]:
    """Return the languages that a model's text tower was distilled for, its teacher's last; [] if that is not known."""
    path = folder / RUN_FILE
    run: Any = read_object(path) if path.is_file() else {}
    with about(f"{path} is damaged", kind=DamagedError, remedy=REMEDY):
        lesson = run.get("settings", {}).get("distil", {})
        source, *targets = lesson.get("languages") or [""]
        learned = lesson.get("pairs_by_language", targets)
        return [str(code) for code in (*targets, source) if code in learned]


def read_lineage(folder: Path) -> Lineage:
    """Return what the model in a folder was made of, as far as the folder tells."""
    path, export = folder / RUN_FILE, folder / EXPORT_RECORD
    if not path.is_file():
        record = read_object(export) if export.is_file() else {}
        return Lineage(learned=[str(record["model_sha256"])] if record.get("kind") == MODEL_KIND else None)
    run = read_object(path)
    if "learned" not in run:
        raise InputError(
            f"{folder} does not record what the model learned from: it is of an earlier version, train again"
        )
    with about(f"{path} is damaged", kind=DamagedError, remedy=REMEDY):
        borrowed, names = run.get("borrowed", []), {"tower", "weights", LICENSE}
        if not all(names <= one.keys() for one in borrowed):
            raise ValueError("it does not say what the model was made of")
        learned = TypeAdapter(list[str]).validate_python(run["learned"])
        stated = {"settings": run["settings"], "learned": learned, "borrowed": borrowed, LICENSE: run.get(LICENSE)}
        return TypeAdapter(Lineage).validate_python(stated)

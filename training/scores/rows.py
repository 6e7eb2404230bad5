"""The table of scores: one row for each number, with the facts about its models and test sets.

Evaluations, scoreboards, probes, curves and ablations are boards. The model card and mteb's files are made from them.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, TypeAdapter

from data_catalog.base.boundary import about
from data_catalog.disk.files import read_json
from training.scores.metrics import METRIC_OF

UNKNOWN = "unknown"
ALL, LEAK_FREE = "all", "leak-free"
# The captions that are queries (text to image) and gallery (image to text).
CAPTION_MODES = {
    "all": "every caption",
    "one": "the first caption of each image",
    "distinct": "captions that belong to only one image of the gallery",
    "human": "captions that people wrote or validated, and native ones",
    "machine": "captions translated by a machine",
    "unstated": "captions of unstated origin",
    "bare": "class names in the bare template, {c}",
    "templates": "class names in each template, with averaged features",
}
IMAGE_CHOICES = {
    ALL: "every image",
    LEAK_FREE: "images that match and resemble no known training image of any model in the table",
}
VALIDATED = "the epoch of the weights was chosen on these images, which flatters the model"  # note on a val split

_VALIDATED_BEFORE = "the epoch whose weights were kept was chosen on these images, which flatters the model"
_STRICT = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)
_FACTS = ConfigDict(strict=True, allow_inf_nan=False)  # facts of other versions may have other fields
_OLD_NAMES = {"name": "metric", "gallery_size": "gallery", "num_queries": "queries", "num_dropped": "left_out"}
_DIGITS = 3  # of a metric that is not in `METRIC_OF`


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreRow:
    """A number with its 95 % interval: the score of a model on a test set, or its difference from another model's.

    Args:
        metric: a key of `METRIC_OF` such as "text_to_image_MRR@5", or "pairs_accuracy".
        captions: a key of `CAPTION_MODES`; for pairs of captions what is changed in the false ones.
        images: a key of `IMAGE_CHOICES`.
        chance: expected value for a random order; 0 for a difference.
        gallery: number of images, captions or classes that are ranked; the images of pairs of captions.
        left_out: number of queries that `captions` or `images` leave out.
        minus: the model whose score is subtracted, on the same queries. None for a score.
    """

    __pydantic_config__ = _STRICT

    model: str
    test_set: str
    metric: str
    captions: str
    images: str = ALL
    value: float
    low: float
    high: float
    chance: float
    gallery: int
    queries: int
    left_out: int
    minus: str | None = None

    @property
    def choice(self) -> tuple[str, str]:
        """Return the caption mode and the image choice."""
        return self.captions, self.images

    def shown(self, value: float) -> str:
        """Format a value with the decimals of the metric; differences have a sign."""
        digits = METRIC_OF[self.metric].digits if self.metric in METRIC_OF else _DIGITS
        return f"{value:{'' if self.minus is None else '+'}.{digits}f}"

    def estimate(self) -> str:
        """Return the value with its interval, as a scoreboard shows it; `~` marks a score that chance explains."""
        mark = " ~" if self.minus is None and self.low <= self.chance <= self.high else ""
        return f"{self.shown(self.value)} [{self.shown(self.low)}, {self.shown(self.high)}]{mark}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """Facts about a model that was scored.

    `origin` has the source of its weights and the beginning of their sha256. `tensors_sha256`, of the loaded weights,
    is comparable between models that were loaded in the same way. `files` has name and sha256 of the configs and
    tokenizer in its folder, and `counts` what it learned from, such as the number of `images` and `captions`.
    """

    __pydantic_config__ = _FACTS

    name: str
    origin: str
    trained_on: str = UNKNOWN
    tensors_sha256: str | None = None
    files: tuple[Mapping[str, str], ...] = ()
    counts: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class TextLanguage:
    """The language of a set's texts: as the models are scored (`asked`), as it is stated, and as it looks.

    `looks_like` has the shares of texts that clearly look like other languages, the largest first. `num_judged` counts
    the texts with enough letters to identify a language, and is None if no identifier knows the language.
    """

    __pydantic_config__ = _FACTS

    asked: str
    stated: str | None = None
    looks_like: Mapping[str, float] = field(default_factory=dict)
    num_judged: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SetFacts:
    """Facts about a test set that models were scored on.

    Args:
        task: "retrieval" or "zero-shot".
        num_texts: captions of the scored images, or classes.
        num_missing: images that are missing or do not decode, and are left out.
        compared: what the set was compared by with a model's training images, by model; nothing is known about others.
        leaked: scored images that a model was trained on, with the reason, by model.
        alike: scored images that look like a model's training image, with the reason, by model.
        language: language of its texts. None if it was not checked.
        left_out: number of pairs of captions, or of images, that were left out, by reason.
    """

    __pydantic_config__ = _FACTS

    name: str
    task: str
    num_images: int
    num_texts: int
    num_missing: int = 0
    compared: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    leaked: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    alike: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    files: tuple[Mapping[str, str], ...] = ()
    language: TextLanguage | None = None
    left_out: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Board:
    """Scores of models on test sets, in the order of sets and models; differences are from the first model."""

    __pydantic_config__ = _FACTS

    rows: tuple[ScoreRow, ...]
    models: tuple[ModelFacts, ...]
    sets: tuple[SetFacts, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> "Board":
        """Read the file of an evaluation, scoreboard, probe, curve or ablation, also one of an earlier version."""
        with about(f"{path} is not a valid table of scores"):
            found = _as_of_now(read_json(path), path)
            return _BOARDS.validate_json(json.dumps({name: found[name] for name in _NAMES & found.keys()}))

    def to_json(self) -> dict[str, Any]:
        """Return plain values for a JSON file, which may have more keys."""
        return asdict(self)

    def where(self, **columns: object) -> "Board":
        """Return the board with only the rows that have these values, such as `minus=None` for scores alone."""
        chosen = (row for row in self.rows if all(getattr(row, name) == value for name, value in columns.items()))
        return replace(self, rows=tuple(chosen))

    def pivot(self, *columns: str) -> dict[tuple[Any, ...], dict[str, ScoreRow]]:
        """Return the rows by their values of some columns, in the order of the rows, and then by metric."""
        found: dict[tuple[Any, ...], dict[str, ScoreRow]] = {}
        for row in self.rows:
            found.setdefault(tuple(getattr(row, name) for name in columns), {})[row.metric] = row
        return found

    def get(self, metric: str, captions: str = ALL, **columns: object) -> ScoreRow:
        """Return the first score of a metric over some captions; a `KeyError` if there is none."""
        rows = self.where(**{"captions": captions, "minus": None, **columns}).rows
        return {row.metric: row for row in reversed(rows)}[metric]

    def table(self) -> list[dict[str, str | int]]:
        """Return the scores as rows of a table for people, by column title."""
        return [
            {
                "metric": row.metric,
                "captions": row.captions,
                "score": row.shown(row.value),
                "95 % interval": f"{row.shown(row.low)}-{row.shown(row.high)}",
                "chance": row.shown(row.chance),
                "gallery": row.gallery,
                "queries": row.queries,
                "left out": row.left_out,
            }
            for row in self.rows
        ]

    def with_weights(self, sha256: str) -> list[str]:
        """Return the names of models that have these weights and whose texts are not changed first."""
        return [model.name for model in self.models if model.origin.endswith(f"weights {sha256[:12]}")]


_NAMES = {column.name for column in fields(Board)}
_BOARDS = TypeAdapter(Board)


def _as_of_now(found: Any, path: Path) -> dict[str, Any]:
    """Return the document of a board; convert evaluations and scoreboards of earlier versions."""
    if "model_sha256" in found:
        split, model = found["split"], path.absolute().parent.name
        rows = [_row(score, model, split) for score in found["scores"]]
        counts = {row["metric"]: row["gallery"] for row in rows if row["captions"] == ALL}
        facts = {
            "name": split,
            "task": "retrieval",
            "num_images": counts.get("text_to_image_R@1", 0),
            "num_texts": counts.get("image_to_text_R@1", 0),
            "notes": [VALIDATED] if split == "val" else [],
        }
        origin = f"vernaclip {model}, weights {found['model_sha256'][:12]}"
        return {"rows": rows, "models": [{"name": model, "origin": origin}], "sets": [facts]}
    if "entries" in found:
        rows = [_row(entry["score"], entry["model"], entry["test_set"]) for entry in found["entries"]]
        columns = ("model", "test_set", "metric", "captions", "images")
        scores = {tuple(row[name] for name in columns): row for row in rows}
        for entry in found.get("differences", []):
            row = _row(entry["difference"], entry["model"], entry["test_set"])
            rows.append({**scores[tuple(row[name] for name in columns)], **row, "chance": 0.0, "minus": entry["first"]})
        sets = [
            {**facts, "notes": [VALIDATED if note == _VALIDATED_BEFORE else note for note in facts.get("notes", ())]}
            for facts in found["sets"]
        ]
        return {**found, "rows": rows, "sets": sets}
    return dict(found)


def _row(score: Mapping[str, Any], model: str, test_set: str) -> dict[str, Any]:
    renamed = {_OLD_NAMES.get(name, name): value for name, value in score.items()}
    return {"model": model, "test_set": test_set, "images": ALL, **renamed}

"""The table of scores: one row for each number, with the facts about its models and test sets.

Evaluations and scoreboards are boards. The model card is made from them.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, TypeAdapter

from data_catalog.base.boundary import about
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

_STRICT = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)
_FACTS = ConfigDict(strict=True, allow_inf_nan=False)  # facts of other versions may have other fields
_DIGITS = 3  # of a metric of another version, which is not in `METRIC_OF`


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreRow:
    """A number with its 95 % interval: the score of a model on a test set, or its difference from another model's."""

    __pydantic_config__ = _STRICT

    model: str
    test_set: str
    metric: str  # a key of `METRIC_OF` such as "text_to_image_MRR@5"
    captions: str  # a key of `CAPTION_MODES`
    images: str = ALL  # a key of `IMAGE_CHOICES`
    value: float
    low: float
    high: float
    chance: float  # expected value for a random order; 0 for a difference
    gallery: int  # images, captions or classes that are ranked
    queries: int
    left_out: int  # queries that `captions` or `images` leave out
    minus: str | None = None  # the model whose score is subtracted, on the same queries; None for a score

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
    """Facts about a model that was scored."""

    __pydantic_config__ = _FACTS

    name: str
    origin: str  # source of its weights and the beginning of their sha256
    trained_on: str = UNKNOWN
    tensors_sha256: str | None = None  # of the loaded weights; comparable between models that were loaded alike
    files: tuple[Mapping[str, str], ...] = ()  # name and sha256 of the configs and tokenizer in its folder


@dataclass(frozen=True, slots=True, kw_only=True)
class TextLanguage:
    """The language of a set's texts: as the models are scored (`asked`), and as it is stated."""

    __pydantic_config__ = _FACTS

    asked: str
    stated: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SetFacts:
    """Facts about a test set that models were scored on; three of them by model, others are not known."""

    __pydantic_config__ = _FACTS

    name: str
    task: str  # "retrieval" or "zero-shot"
    num_images: int
    num_texts: int  # captions of the scored images, or classes
    num_missing: int = 0  # images that are missing or do not decode, and are left out
    compared: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # by what, with a model's training images
    leaked: Mapping[str, Mapping[str, str]] = field(default_factory=dict)  # images trained on, with the reason
    alike: Mapping[str, Mapping[str, str]] = field(default_factory=dict)  # images that look like one, likewise
    notes: tuple[str, ...] = ()
    files: tuple[Mapping[str, str], ...] = ()
    language: TextLanguage | None = None  # of its texts; None: not known


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
        """Read the file of an evaluation or a scoreboard, which may have more keys."""
        with about(f"{path} is not a valid table of scores"):
            return _BOARDS.validate_json(path.read_bytes())

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


_BOARDS = TypeAdapter(Board)

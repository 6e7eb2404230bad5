"""A scoreboard: numbers that carry what they were measured on, as JSON and as a table."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

# Which captions are queries (text to image) and gallery (image to text).
CAPTION_MODES = {
    "all": "every caption",
    "one": "the first caption of each image",
    "distinct": "captions that belong to one image of the gallery only",
    "human": "captions that people wrote or validated, or that are native",
    "machine": "captions that a machine translated",
    "unstated": "captions of which nobody says who made them",
    "bare": "class names in the bare template, {c}",
    "templates": "class names in each template, their features averaged",
}
IMAGE_CHOICES = {
    "all": "every image",
    "leak-free": "images that are, and look like, none that a model of the table was trained on, as far as is known",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """One number.

    Args:
        name: such as "text_to_image_MRR@5".
        captions: one of `CAPTION_MODES`.
        images: one of `IMAGE_CHOICES`.
        value: between 0 and 1; of a median rank, from 1.
        low: lower end of the 95 % interval.
        high: its upper end.
        chance: what random order would give.
        gallery_size: items to choose from: images, or captions.
        num_queries: items asked for.
        num_dropped: queries left out because of the caption mode.
    """

    name: str
    captions: str
    value: float
    low: float
    high: float
    chance: float
    gallery_size: int
    num_queries: int
    num_dropped: int
    images: str = "all"

    def shown(self, value: float) -> str:
        """A value of this score as text: shares with four digits, ranks with one."""
        return f"{value:.1f}" if self.name.endswith("_rank") else f"{value:.4f}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """By how much one model's number lies above another's, on the same queries, with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreDifference(Difference):
    """A difference of two scores of that name, over these captions and images, by paired bootstrap."""

    name: str
    captions: str
    images: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """All numbers of one model on one split.

    Args:
        split: whose images are the gallery.
        model_sha256: of the weights.
    """

    split: str
    model_sha256: str
    scores: tuple[Score, ...]

    def get(self, name: str, captions: str = "all") -> Score:
        """One score by name and caption mode.

        Raises:
            KeyError: there is none.
        """
        for score in self.scores:
            if (score.name, score.captions) == (name, captions):
                return score
        raise KeyError(f"no score {name} over {captions} captions")

    def to_json(self) -> dict[str, Any]:
        """Plain values, for a JSON file."""
        return asdict(self)

    def rows(self, captions: str | None = None) -> list[dict[str, str]]:
        """The scoreboard's rows, formatted, by column title: of one caption mode, or of all."""
        return [
            {
                "metric": score.name,
                "captions": score.captions,
                "score": score.shown(score.value),
                "95 % interval": f"{score.shown(score.low)}-{score.shown(score.high)}",
                "chance": score.shown(score.chance),
                "gallery": f"{score.gallery_size:,}",
                "queries": f"{score.num_queries:,}",
                "left out": f"{score.num_dropped:,}",
            }
            for score in self.scores
            if captions in (None, score.captions)
        ]

    def table(self, captions: str | None = None) -> str:
        """The scoreboard as text, of one caption mode or of all, with a line on what each mode means."""
        rows = self.rows(captions)
        modes = [mode for mode in CAPTION_MODES if any(row["captions"] == mode for row in rows)]
        return "\n".join([*_aligned(rows), "", *(f"captions {mode}: {CAPTION_MODES[mode]}" for mode in modes)])


def _aligned(rows: Sequence[Mapping[str, str]]) -> list[str]:
    if not rows:
        return []
    table = [list(rows[0]), *(list(row.values()) for row in rows)]
    widths = [max(len(cells[column]) for cells in table) for column in range(len(table[0]))]
    lines = [
        "  ".join(
            cell.ljust(width) if column < 2 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ).rstrip()
        for cells in table
    ]
    return [lines[0], "-" * len(lines[0]), *lines[1:]]

"""What an ablation found: as a record, as rows of a table, as a page in Markdown ready for a dataset's card."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from data_catalog.ablations import AblationTable, write_ablation_record
from data_catalog.storage.shards import write_bytes
from training.ablation import FEW_IMAGES, METRICS, PRIMARY, Difference
from training.forest_plot import write_forest_plot

PAGE_FILE, PLOT_FILE = "ablation.md", "ablation.png"
SHORT = {
    "text_to_image_MRR@10": "text to image MRR@10",
    "text_to_image_R@1": "text to image R@1",
    "image_to_text_R@1": "image to text R@1",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """Images and captions that a variant's models were trained on."""

    images: int
    captions: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """One filter.

    Args:
        overrides: what switches it, as `--set` takes it.
        with_it: number of the variant that has the filter; 0 is the recipe as it is.
        without: of the one that lacks it.
        differences: with it less without it, by metric.
        p_value: of the first metric, corrected for the number of filters.
    """

    label: str
    overrides: tuple[str, ...]
    with_it: int
    without: int
    differences: Mapping[str, Difference]
    p_value: float
    verdict: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Ablation:
    """All that was found.

    Args:
        snapshot: of the recipe as it is; the dataset of that name has the same one if it was built from the same.
        num_left_out: images of the split that some variant was trained on.
        noise: standard deviation of one model's score, beside what its seed does to all variants, by metric.
        degrees: of freedom of that.
        scores: mean over the seeds, by metric, of each variant.
        snapshots: dataset and snapshot of each variant, the recipe as it is first.
        models: folders below the root, of each variant by seed.
    """

    key: str
    dataset: str
    snapshot: str
    split: str
    num_images: int
    num_queries: int
    num_left_out: int
    steps: int
    batch_size: int
    seeds: tuple[int, ...]
    noise: Mapping[str, float]
    degrees: int
    scores: Mapping[str, Sequence[float]]
    sizes: Sequence[Sizes]
    snapshots: Sequence[str]
    models: Sequence[Sequence[str]]
    compared: Sequence[Compared]

    def rows(self) -> list[dict[str, str]]:
        """One row a filter, for a table."""
        return [self._row(each) for each in self.compared]

    def _row(self, each: Compared) -> dict[str, str]:
        with_it, without = self.sizes[each.with_it], self.sizes[each.without]
        scores = self.scores[PRIMARY]
        row = {
            "filter": each.label,
            "images to train on": f"{with_it.images:,} ({with_it.images - without.images:+,})",
            "captions": f"{with_it.captions:,} ({with_it.captions - without.captions:+,})",
            "with": f"{scores[each.with_it]:.3f}",
            "without": f"{scores[each.without]:.3f}",
        }
        for metric, found in each.differences.items():
            row[SHORT[metric]] = f"{found.value:+.3f} ({found.low:+.3f} to {found.high:+.3f})"
        return {**row, "p": f"{each.p_value:.2g}" if each.p_value >= 0.001 else "< 0.001", "verdict": each.verdict}

    def notes(self) -> list[str]:
        """What the numbers were measured on and what the columns mean, one sentence or two each."""
        left_out = f", without {self.num_left_out:,} that a variant was trained on" if self.num_left_out else ""
        count = len(self.seeds)
        notes = [
            f"Each model: {self.steps:,} optimizer steps of {self.batch_size} images, whatever the number of images; "
            f"{count} seed{'s' if count > 1 else ''} of each variant.",
            f"Scored on the same {self.num_images:,} images of the {self.split} split{left_out}, and "
            f"{self.num_queries:,} captions that belong to one of them.",
            f'"with" and "without" are {SHORT[PRIMARY]}; then come differences, with the filter less without it, and '
            "their 95 % intervals, not corrected. Numbers in brackets: what the filter changes.",
        ]
        if self.num_images < FEW_IMAGES:
            notes.append(f"Of fewer than {FEW_IMAGES} test images nothing is said: intervals of so few are too short.")
        if count > 1 and not self.degrees:
            return notes  # no filter changes a row
        if count > 1:
            return [
                *notes,
                "Intervals hold the choice of test images and of seeds. Models of one seed start from the same weights "
                "and are compared with one another; what is left of chance moves one model's score by "
                f"{self.noise[PRIMARY]:.3f} (standard deviation, {self.degrees} degrees of freedom).",
                f"p and verdict: {SHORT[PRIMARY]}, corrected by Holm's method for all filters that change a row.",
            ]
        return [
            *notes,
            "With one seed nobody knows how far training anew would move these numbers: the intervals hold the choice "
            "of test images alone, and no filter is said to help or to hurt. Take --seeds 3.",
        ]

    def page(self) -> str:
        """The table in Markdown, with what it was measured on."""
        rows = self.rows()
        heads = list(rows[0])
        lines = [heads, ["---" for _ in heads], *([row[head] for head in heads] for row in rows)]
        table = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
        notes = "\n".join(f"- {note}" for note in self.notes())
        title = f"# Which filters help: {self.dataset}, snapshot {self.snapshot}"
        return f"{title}\n\n{table}\n\n{notes}\n\n![Differences and their intervals]({PLOT_FILE})\n"


def write_ablation(found: Ablation, folder: Path) -> None:
    """Write the record, the page and the plot into a folder; the record comes last."""
    page = found.page()
    write_bytes(folder / PAGE_FILE, page.encode())
    labels = [each.label for each in found.compared]
    series = {SHORT[metric]: [each.differences[metric] for each in found.compared] for metric in METRICS}
    write_forest_plot(labels, series, folder / PLOT_FILE)
    rows = found.rows()
    table = AblationTable(
        key=found.key, columns=list(rows[0]), rows=[list(row.values()) for row in rows], notes=found.notes()
    )
    write_ablation_record(folder, asdict(found), table)

"""Formats of exports by name, which is also the name of the export's folder, and the settings of an export.

`data_catalog/exports/sinks.py` has a writer for each. The command line reads this, so it imports nothing heavy.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge

Format = Literal["huggingface", "webdataset"]
Pixels = Literal["licensed", "noncommercial", "all", "none"]  # `data_catalog.exports.rights` explains them
FORMATS: dict[str, str] = {
    "huggingface": 'Parquet shards with a dataset card, for datasets.load_dataset("FOLDER")',
    "webdataset": "tar shards with sizes.json, for webdataset and open_clip's trainer",
}


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """Settings of an export of a dataset."""

    format: Format
    """Format of the export; see the list above."""
    pixels: Pixels = "licensed"
    """Images to include as pixels: with a free license, also with one that forbids commercial use, all, or none."""
    allowed: tuple[str, ...] = ()
    """Include the images of this source, which you have the right to redistribute. Repeatable."""
    samples_per_shard: Annotated[int, Ge(1)] = 1000
    """Samples in each tar shard."""
    captions: Literal["first", "every"] = "first"
    """In tar shards, write each image once with its first caption, or once for every caption."""

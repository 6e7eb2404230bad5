"""Formats of exports: one entry each, which the command, the export and its card read.

The command line reads this table for its help, so nothing heavy is imported before a format is written.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from data_catalog.exports.sinks import PairSink


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetFormat:
    """A format of exports.

    Args:
        help: one line for the command's help: the files and the tools that read them.
        open_sink: opens the writer of the pairs, given its folder, the samples of a tar shard, and the captions of a
            sample; it imports what it needs.
        loading: Markdown for the card on how to load the pairs, if there are any.
        has_pixels: whether images may be included; otherwise all are listed by address.
        is_parquet: whether pairs are Parquet shards, as the lists of links beside them are.
        has_croissant: whether the export has Croissant metadata.
    """

    help: str
    open_sink: Callable[[Path, int, str], "PairSink"]
    loading: str = ""
    has_pixels: bool = True
    is_parquet: bool = True
    has_croissant: bool = False


def _parquet_shards(folder: Path, samples_per_shard: int, captions: str) -> "PairSink":
    from data_catalog.exports.sinks import ParquetSink

    return ParquetSink(folder)


def _tar_shards(folder: Path, samples_per_shard: int, captions: str) -> "PairSink":
    from data_catalog.exports.sinks import TarSink

    return TarSink(folder, samples_per_shard=samples_per_shard, captions=captions)


_LOAD_PAIRS = """```python
from datasets import load_dataset

pairs = load_dataset("FOLDER", split="train")
pairs[0]["image"], pairs[0]["captions"]
```

`croissant.json` describes the same files for `mlcroissant`."""

_LOAD_TARS = """```python
import webdataset

pairs = webdataset.WebDataset("FOLDER/train-000000.tar", shardshuffle=False).decode("pil")
```

Each sample is `KEY.jpg` (or `.webp`, `.png`), `KEY.json` and `KEY.txt`. open_clip's trainer reads
`FOLDER/train-{000000..N}.tar` (`--dataset-type webdataset --train-data ...`), and reads the number of samples from
`sizes.json`. `KEY.txt` is one caption. `KEY.json` has all of them in `captions`, and the first five as `caption_0` to
`caption_4`, from which newer versions of open_clip sample with `--json-text-key` and `--json-text-key-probs`.

`datasets.load_dataset("FOLDER")` reads them, too."""

# Formats by name, which is also the name of the export's folder.
FORMATS = {
    "huggingface": DatasetFormat(
        help='Parquet shards with a dataset card and Croissant metadata, for datasets.load_dataset("FOLDER")',
        open_sink=_parquet_shards,
        loading=_LOAD_PAIRS,
        has_croissant=True,
    ),
    "webdataset": DatasetFormat(
        help="tar shards with sizes.json, for webdataset and open_clip's trainer",
        open_sink=_tar_shards,
        loading=_LOAD_TARS,
        is_parquet=False,
    ),
    "urls": DatasetFormat(
        help="addresses, captions and rights in Parquet, without pixels, for img2dataset",
        open_sink=_parquet_shards,  # it receives no pairs: LinkWriter writes the lists of every format
        has_pixels=False,
    ),
}

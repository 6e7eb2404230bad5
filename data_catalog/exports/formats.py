"""The formats that datasets are exported to: one entry each, from which the command, the export and its card come.

The command line reads this table for its help: nothing heavy is imported before a format is written.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from data_catalog.exports.sinks import PairSink


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetFormat:
    """A format that datasets are exported to.

    Args:
        help: what is written and what reads it, in a line.
        open_sink: opens what takes the pairs, given its folder, samples a tar shard, and which captions a sample has;
            it imports what it needs.
        loading: Markdown for the card that says how the pairs are read, where the export holds any.
        has_pixels: images may go along; else all are listed by address.
        is_parquet: pairs are Parquet shards, like the lists of links beside them.
        has_croissant: the export has Croissant metadata.
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

Each sample is `KEY.jpg` (or `.webp`, `.png`), `KEY.json` and `KEY.txt`. open_clip's own trainer reads
`FOLDER/train-{000000..N}.tar` (`--dataset-type webdataset --train-data ...`), and finds how many samples there are in
`sizes.json`. `KEY.txt` is one caption; `KEY.json` has all of them in `captions`, and the first five as `caption_0` to
`caption_4`, which newer versions of open_clip draw from with `--json-text-key` and `--json-text-key-probs`.

`datasets.load_dataset("FOLDER")` reads them as well."""

# By name, which is also that of the folder that an export goes to.
FORMATS = {
    "huggingface": DatasetFormat(
        help='pair shards with a dataset card: datasets.load_dataset("FOLDER"), and Croissant metadata',
        open_sink=_parquet_shards,
        loading=_LOAD_PAIRS,
        has_croissant=True,
    ),
    "webdataset": DatasetFormat(
        help="tar shards with sizes.json: for webdataset and open_clip's own trainer",
        open_sink=_tar_shards,
        loading=_LOAD_TARS,
        is_parquet=False,
    ),
    "urls": DatasetFormat(
        help="addresses, captions and rights in Parquet, no pixels: for img2dataset",
        open_sink=_parquet_shards,  # which gets no pair to write: LinkWriter lists them, as for every format
        has_pixels=False,
    ),
}

"""What an export says of itself: card, Croissant metadata of its Parquet shards, terms of its sources."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from data_catalog.ablations import AblationTable
from data_catalog.exports.attribution import TEXT_FILE, attribution_text
from data_catalog.exports.card import CardParts, card_text, example_captions
from data_catalog.exports.counts import PairCounts
from data_catalog.exports.croissant import FILE as CROISSANT_FILE
from data_catalog.exports.croissant import croissant_text
from data_catalog.exports.front_matter import DataConfig
from data_catalog.exports.sinks import ParquetSink, Sink, TarSink

CARD_FILE = "README.md"

LOAD_PAIRS = """```python
from datasets import load_dataset

pairs = load_dataset("FOLDER", split="train")
pairs[0]["image"], pairs[0]["captions"]
```

`croissant.json` describes the same files for `mlcroissant`."""

LOAD_TARS = """```python
import webdataset

pairs = webdataset.WebDataset("FOLDER/train-000000.tar", shardshuffle=False).decode("pil")
```

Each sample is `KEY.jpg` (or `.webp`, `.png`), `KEY.json` and `KEY.txt`. open_clip's own trainer reads
`FOLDER/train-{000000..N}.tar` (`--dataset-type webdataset --train-data ...`), and finds how many samples there are in
`sizes.json`. `KEY.txt` is one caption; `KEY.json` has all of them in `captions`, and the first five as `caption_0` to
`caption_4`, which newer versions of open_clip draw from with `--json-text-key` and `--json-text-key-probs`.

`datasets.load_dataset("FOLDER")` reads them as well."""

LOAD_LINKS = """`links/SPLIT/` lists images by address, without pixels, as img2dataset reads them:

```
img2dataset --url_list FOLDER/links/train --input_format parquet --url_col url --caption_col caption \\
  --save_additional_columns '["sample_id","license","attribution","page_url"]' \\
  --output_folder OUT --output_format webdataset
```

`sha256` is of the bytes as they came, so that `--verify_hash '["sha256","sha256"]'` finds what has changed since;
Wikimedia's were asked for in another size, so that theirs always differ.

`datasets.load_dataset("parquet", data_dir="FOLDER/links")` reads them as well."""


def write_folder_documents(
    manifest: Mapping[str, Any],
    folder: Path,
    *,
    sink: Sink,
    links: DataConfig,
    counts: PairCounts,
    listed: PairCounts,
    withheld: Mapping[tuple[str, str], int],
    published: str | None,
    ablations: Sequence[AblationTable] = (),
) -> None:
    """Write README.md, ATTRIBUTION.md and, for Parquet shards, croissant.json into an export's folder."""
    schema, examples = None, []
    written = sink.config()
    if isinstance(sink, ParquetSink):
        schema, examples = sink.schema, example_captions(folder / entry["path"] for entry in sink.entries)
        patterns = [found.pattern for found in written.splits.values()]
        text = croissant_text(manifest, files=sink.entries, patterns=patterns, schema=schema, published=published)
        _write(folder / CROISSANT_FILE, text)
    # `datasets` reads all that a card names with one reader, so that beside tars a list is none of its configurations.
    parts = CardParts(
        counts=counts,
        listed=listed,
        configs=[written] if isinstance(sink, TarSink) and written.splits else [written, links],
        schema=schema,
        examples=examples,
        loading="\n\n".join(_loading(sink, written, links)),
        withheld=withheld,
        ablations=ablations,
    )
    _write(folder / CARD_FILE, card_text(manifest, parts))
    _write(folder / TEXT_FILE, attribution_text(manifest))


def _loading(sink: Sink, written: DataConfig, links: DataConfig) -> list[str]:
    own = LOAD_TARS if isinstance(sink, TarSink) else LOAD_PAIRS
    said = [*([own] if written.splits else []), *([LOAD_LINKS] if links.splits else [])]
    return said or ["It holds no image that may be passed on, and none that has an address."]


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")

"""What `vernaclip export` takes on the command line."""

import argparse
from pathlib import Path

from flows.job_options import add_root

EPILOG = """formats:
  huggingface  pair shards with a dataset card: datasets.load_dataset("FOLDER"), and Croissant metadata
  webdataset   tar shards with sizes.json: for webdataset and open_clip's own trainer
  urls         addresses, captions and rights in Parquet, no pixels: for img2dataset

Pixels go along where the row's licence allows it, or the recipe says so of its source ([sources.NAME] licence = "..."
or redistribution = true); other images are listed by address in every format. ATTRIBUTION.csv names each one's licence.

examples:
  vernaclip export italian --format huggingface
  vernaclip export italian --format webdataset --pixels noncommercial --out /data/italian-wds
  vernaclip export mine --format huggingface --allow photos
"""


def add_export_options(command: argparse.ArgumentParser) -> None:
    """Add the options of an export."""
    command.formatter_class, command.epilog = argparse.RawDescriptionHelpFormatter, EPILOG
    command.add_argument("dataset", metavar="DATASET", help="name of a dataset (see `vernaclip catalog`)")
    command.add_argument("--format", required=True, choices=("huggingface", "webdataset", "urls"))
    add_root(command)
    command.add_argument(
        "--out", type=Path, metavar="DIR", help="where it goes (default: exports/DATASET/FORMAT in the root)"
    )
    command.add_argument(
        "--pixels",
        choices=("licensed", "noncommercial", "all", "none"),
        default="licensed",
        help="whose pixels go along: of images under a free licence (licensed, the default), also of those whose "
        "licence forbids commercial use only, of all of them, whatever the law says where you are, or of none",
    )
    command.add_argument(
        "--allow",
        action="append",
        default=[],
        metavar="SOURCE",
        help="you have the right to pass on the images of this source; may be given several times",
    )
    command.add_argument(
        "--samples-per-shard", type=int, default=1000, metavar="N", help="of tar shards (default: 1000)"
    )
    command.add_argument(
        "--captions",
        choices=("first", "every"),
        default="first",
        help="of tar shards: an image is one sample with its first caption (the default), or one for every caption",
    )
    command.add_argument("--published", metavar="DATE", help="date of publication for croissant.json, as in 2026-01-31")

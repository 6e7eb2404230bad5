"""What happened when, and where: kept beside the snapshots, never in them."""

import platform
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from data_catalog.checksummed import checksummed_line
from data_catalog.manifest import datasets_folder
from data_catalog.shards import append_line

RUN_LOG = "runs.jsonl"


def append_run(root: Path, dataset: str, **facts: Any) -> None:
    """Add one line to a dataset's run log: the time, the machine, and the given facts (JSON values)."""
    line = {"time": datetime.now(UTC).isoformat(timespec="seconds"), "host": platform.node(), **facts}
    append_line(datasets_folder(root) / dataset / RUN_LOG, checksummed_line(line))

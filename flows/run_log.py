"""What happened when, and where: kept beside the snapshots, never in them."""

import json
import platform
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from data_catalog.checksummed import checksummed_line, line_problem
from data_catalog.manifest import datasets_folder
from data_catalog.shards import append_line

RUN_LOG = "runs.jsonl"


def append_run(root: Path, dataset: str, **facts: Any) -> None:
    """Add one line to a dataset's run log: the time, the machine, and the given facts (JSON values)."""
    line = {"time": datetime.now(UTC).isoformat(timespec="seconds"), "host": platform.node(), **facts}
    append_line(datasets_folder(root) / dataset / RUN_LOG, checksummed_line(line))


def read_runs(root: Path, dataset: str) -> list[dict[str, Any]]:
    """What a dataset's run log says, oldest run first; lines that are damaged are left out: `verify` tells of them."""
    path = datasets_folder(root) / dataset / RUN_LOG
    lines = path.read_bytes().splitlines() if path.is_file() else []
    return [json.loads(line) for line in lines if line_problem(line) is None]

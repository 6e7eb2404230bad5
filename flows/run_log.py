"""What happened when, and where: kept beside the snapshots, never in them."""

import json
import platform
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from data_catalog.manifest import datasets_folder

RUN_LOG = "runs.jsonl"


def append_run(root: Path, dataset: str, **facts: Any) -> None:
    """Add one line to a dataset's run log: the time, the machine, and the given facts (JSON values)."""
    line = {"time": datetime.now(UTC).isoformat(timespec="seconds"), "host": platform.node(), **facts}
    path = datasets_folder(root) / dataset / RUN_LOG
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line, sort_keys=True) + "\n")

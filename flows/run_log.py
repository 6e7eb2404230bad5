"""What happened when, and where: kept beside the snapshots, never in them."""

import logging
import platform
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from data_catalog.storage.history import RUN_LOG
from data_catalog.storage.integrity import checksummed_line, record_problem, recorded
from data_catalog.storage.manifest import datasets_folder
from data_catalog.storage.shards import append_line

logger = logging.getLogger(__name__)


def append_run(root: Path, dataset: str, **facts: Any) -> None:
    """Add one line to a dataset's run log: the time, the machine, and the given facts (JSON values)."""
    line = {"time": datetime.now(UTC).isoformat(timespec="seconds"), "host": platform.node(), **facts}
    path = datasets_folder(root) / dataset / RUN_LOG
    problem = record_problem(path)
    if problem is not None:
        logger.warning("%s is not what was written (%s): lines of earlier runs may be lost", path, problem)
    with recorded(path):
        append_line(path, checksummed_line(line))

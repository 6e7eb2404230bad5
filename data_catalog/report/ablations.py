"""Ablations of a root: what was found of the filters that made a snapshot, for its card and its report."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_catalog.errors import DamagedError
from data_catalog.storage.integrity import read_checksummed, write_checksummed
from data_catalog.storage.manifest import Snapshot

FOLDER, RECORD_FILE = "ablations", "ablation.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class AblationTable:
    """One ablation as people read it.

    Args:
        key: its folder's name.
        columns: of the table.
        rows: one a filter; cells are plain text.
        notes: what the numbers were measured on and mean, one plain sentence or two each.
    """

    key: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str]


def write_ablation_record(folder: Path, record: dict[str, Any], table: AblationTable) -> None:
    """Write what an ablation found, which has its dataset and snapshot, with its table."""
    shown = {"columns": list(table.columns), "rows": [list(row) for row in table.rows], "notes": list(table.notes)}
    write_checksummed(folder / RECORD_FILE, {**record, "key": table.key, "table": shown})


def ablations_of(snapshot: Snapshot) -> list[AblationTable]:
    """Return the ablations of a snapshot that its root has, by key.

    Raises:
        DamagedError: a record is damaged.
    """
    found = []
    for path in sorted((snapshot.folder.parents[2] / FOLDER).glob(f"*/{RECORD_FILE}")):
        remedy = f"remove {path} and run `vernaclip ablate` again, which finds the models"
        record = read_checksummed(path, remedy=remedy)
        if (record.get("dataset"), record.get("snapshot")) == (snapshot.dataset, snapshot.snapshot):
            try:
                found.append(AblationTable(key=record["key"], **record["table"]))
            except (KeyError, TypeError) as error:
                raise DamagedError(f"{path} is damaged (it has no table): {remedy}") from error
    return found

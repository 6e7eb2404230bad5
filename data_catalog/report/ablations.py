"""Records of ablations: results for the filters of a snapshot, which its card and its report show."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_catalog.catalog.manifest import Snapshot
from data_catalog.disk.records import read_checksummed, write_checksummed

FOLDER, RECORD_FILE = "ablations", "ablation.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class AblationTable:
    """The table of an ablation, for people: its folder's name, a row for each filter, and notes on the numbers."""

    key: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str]

    def named(self) -> list[dict[str, str]]:
        """Return the rows by the names of the columns."""
        return [dict(zip(self.columns, row, strict=True)) for row in self.rows]


def write_ablation_record(folder: Path, record: dict[str, Any], table: AblationTable) -> None:
    """Write the record of an ablation, which has the keys `dataset` and `snapshot`, with its table for people."""
    shown = {"columns": list(table.columns), "rows": [list(row) for row in table.rows], "notes": list(table.notes)}
    write_checksummed(folder / RECORD_FILE, {**record, "key": table.key, "table": shown})


def ablations_of(snapshot: Snapshot) -> list[AblationTable]:
    """Return the ablations of a snapshot in its root, sorted by key."""
    paths = sorted((snapshot.folder.parents[2] / FOLDER).glob(f"*/{RECORD_FILE}"))
    remedy = "remove {} and run `vernaclip ablate` again, which reuses the trained models"
    records = [read_checksummed(path, remedy=remedy.format(path)) for path in paths]
    ours = (snapshot.dataset, snapshot.snapshot)
    found = [record for record in records if (record.get("dataset"), record.get("snapshot")) == ours]
    return [AblationTable(key=record["key"], **record["table"]) for record in found]

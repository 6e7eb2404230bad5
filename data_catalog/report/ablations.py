"""Records of ablations: results for the filters of a snapshot, which its card and its report show."""

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
    """The table of an ablation, for people.

    Args:
        key: name of its folder.
        columns: of the table.
        rows: one per filter; cells are plain text.
        notes: what was measured, on what, and what the numbers mean; one or two sentences each.
    """

    key: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str]


def write_ablation_record(folder: Path, record: dict[str, Any], table: AblationTable) -> None:
    """Write the record of an ablation, which has the keys `dataset` and `snapshot`, with its table for people."""
    shown = {"columns": list(table.columns), "rows": [list(row) for row in table.rows], "notes": list(table.notes)}
    write_checksummed(folder / RECORD_FILE, {**record, "key": table.key, "table": shown})


def ablations_of(snapshot: Snapshot) -> list[AblationTable]:
    """Return the ablations of a snapshot in its root, sorted by key."""
    found = []
    for path in sorted((snapshot.folder.parents[2] / FOLDER).glob(f"*/{RECORD_FILE}")):
        remedy = f"remove {path} and run `vernaclip ablate` again, which reuses the trained models"
        record = read_checksummed(path, remedy=remedy)
        if (record.get("dataset"), record.get("snapshot")) == (snapshot.dataset, snapshot.snapshot):
            try:
                found.append(AblationTable(key=record["key"], **record["table"]))
            except (KeyError, TypeError) as error:
                raise DamagedError(f"{path} is damaged (it has no table): {remedy}") from error
    return found

"""Take-down: `data_catalog.forgetting` with the translation memories and the report's page that a root has."""

from collections.abc import Collection, Sequence
from functools import partial
from pathlib import Path

from data_catalog import forgetting
from data_catalog.report.page import write_report
from data_catalog.tombstones import Tombstone, Tombstones
from translation.memory import memories


def forget(root: Path, more: Sequence[Tombstone]) -> forgetting.TakeDown:
    """Put tombstones in force and remove all that they mean from a root; see `data_catalog.forgetting.forget`."""
    return forgetting.forget(root, more, forget_texts=partial(_forget_texts, root), write_report=write_report)


def finish_forgetting(root: Path) -> Tombstones:
    """End a take-down that was killed, if there is one, and return the tombstones that are in force."""
    return forgetting.finish_forgetting(root, forget_texts=partial(_forget_texts, root))


def _forget_texts(root: Path, texts: Collection[str]) -> int:
    return sum(memory.forget(texts) for memory in memories(root / "memory"))

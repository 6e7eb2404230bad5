"""Take-down: `data_catalog.takedown` with the translation memories and the report's page that a root has."""

from collections.abc import Collection, Sequence
from functools import partial
from pathlib import Path

from data_catalog import takedown
from data_catalog.tombstones import Tombstone, Tombstones
from translation.memory import memories


def forget(root: Path, more: Sequence[Tombstone]) -> takedown.TakeDown:
    """Put tombstones in force and remove all that they mean from a root; see `data_catalog.takedown.forget`."""
    return takedown.forget(root, more, forget_texts=partial(_forget_texts, root))


def finish_forgetting(root: Path) -> Tombstones:
    """End a take-down that was killed, if there is one, and return the tombstones that are in force."""
    return takedown.finish_forgetting(root, forget_texts=partial(_forget_texts, root))


def _forget_texts(root: Path, texts: Collection[str]) -> int:
    return sum(memory.forget(texts) for memory in memories(root / "memory"))

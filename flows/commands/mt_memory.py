"""Commands around the translation memories of a root: mt memory list, export, import."""

from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from data_catalog.errors import ConfigError
from data_catalog.storage.reading import open_to_readers
from flows.commands.output import say
from flows.tables import plain_table

if TYPE_CHECKING:
    from translation.memory import TranslationMemory

MEMORY_FOLDER = "memory"


def show(options: Namespace) -> None:
    """List the engines whose translations the root remembers."""
    rows = [
        {"fingerprint": memory.fingerprint, "captions": memory.count(), "bytes": memory.num_bytes()}
        for memory in _memories(options.root)
    ]
    say(plain_table(rows) if rows else f"no memories in {options.root}")


def export(options: Namespace) -> None:
    """Write one engine's translations to a Parquet file."""
    from translation.memory_files import export_memory

    found = {memory.fingerprint: memory for memory in _memories(options.root)}
    if options.fingerprint not in found:
        there = ", ".join(found) or "no memory"
        raise ConfigError(f"{options.root} has no memory of the engine {options.fingerprint!r}: it has {there}")
    num_rows = export_memory(found[options.fingerprint], options.file, overwrite=options.force)
    say(f"wrote {num_rows:,} translations to {options.file}")


def _memories(root: Path) -> "list[TranslationMemory]":
    from translation.memory import memories

    if not root.is_dir():
        raise ConfigError(f"{root} does not exist: give the root of a build with --root")
    open_to_readers(root, [])
    return memories(root / MEMORY_FOLDER)


def merge(options: Namespace) -> None:
    """Merge an exported file into the root's memory of its engine."""
    from data_catalog.storage.lock import writer_lock
    from translation.memory import TranslationMemory
    from translation.memory_files import import_memory, read_export

    exported = read_export(options.file)  # before any folder is made
    with writer_lock(options.root):
        found = import_memory(exported, options.root / MEMORY_FOLDER)
        TranslationMemory(options.root / MEMORY_FOLDER, found.fingerprint).seal()
    say(
        f"{found.new:,} new translations of {found.fingerprint}; {found.known:,} were known, "
        f"{found.different:,} are different here and stay as they are"
    )

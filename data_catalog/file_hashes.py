"""Content hashes of upstream files, remembered by size and modification time so that a second look costs a `stat`."""

from pathlib import Path

from data_catalog.shards import digest, read_json, sha256_of, write_json


class FileHashes:
    """sha256 of files, kept in one JSON file of the root.

    A file is read again when its size, its modification time (nanoseconds) or its inode differs.
    """

    def __init__(self, store: Path) -> None:
        self._store = store
        self._known: dict[str, list[object]] = read_json(store) if store.is_file() else {}
        self._changed = False

    def sha256(self, path: Path) -> str:
        """Hexadecimal sha256 of a file."""
        status = path.stat()
        stamp = [status.st_size, status.st_mtime_ns, status.st_ino]
        name = str(path.absolute())
        known = self._known.get(name)
        if known is None or known[:3] != stamp:
            known = [*stamp, sha256_of(path)]
            self._known[name] = known
            self._changed = True
        return str(known[3])

    def folder_digest(self, folder: Path, *, without: Path) -> str:
        """Digest of the names and contents of all files below a folder, those below `without` aside."""
        left_out = without.absolute()
        files = sorted(
            path for path in folder.absolute().rglob("*") if path.is_file() and not path.is_relative_to(left_out)
        )
        return digest([[path.relative_to(folder.absolute()).as_posix(), self.sha256(path)] for path in files])

    def save(self) -> None:
        """Write what was learnt; call it with the writer's lock held."""
        if self._changed:
            write_json(self._store, self._known)
            self._changed = False

"""Upstream files: globs, gzip detection by magic bytes, numbered lines, limits, and the checks before a build."""

import glob
import gzip
import re
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from io import BufferedReader
from pathlib import Path
from typing import ClassVar, NamedTuple

from data_catalog.base.boundary import about
from data_catalog.base.errors import InputError
from data_catalog.base.settings import PATH

# Far more than any line of an upstream file; without a limit, one missing newline would load gigabytes.
MAX_LINE_BYTES = 4 * 2**20
MAX_EXCERPT_CHARS = 500
# Far more than any caption, URL or credit; ingest keeps thousands of rows in memory.
MAX_TEXT_CHARS = 250_000

_GZIP_MAGIC = b"\x1f\x8b"
BOM = b"\xef\xbb\xbf"
_FOREIGN_MAGIC = {
    b"PK\x03\x04": "a zip archive: unpack it first",
    b"BZh": "bzip2: repack it as gzip or unpack it",
    b"\xfd7zXZ\x00": "xz: repack it as gzip or unpack it",
    b"\x28\xb5\x2f\xfd": "zstandard: repack it as gzip or unpack it",
    b"PAR1": "a Parquet file",
    b"\xff\xfe": "UTF-16: convert it to UTF-8",
    b"\xfe\xff": "UTF-16: convert it to UTF-8",
}
_DOWNLOAD_FIRST = (
    "is a URL: download the files first, then name those here; from the Hugging Face hub with `hf download OWNER/NAME "
    "--repo-type dataset --local-dir DIR`, from S3 with `aws s3 cp --recursive s3://BUCKET/FOLDER DIR`"
)
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")


@dataclass(frozen=True, slots=True, kw_only=True)
class FilesConfig:
    """Base of the settings of sources and test sets, which are read from upstream files."""

    EXPECTED: ClassVar[str]  # what the files are, for messages: "a WIT TSV with its header line"
    IN_FOLDER: ClassVar[tuple[str, ...]] = ()  # suffixes of the files that a folder stands for

    files: tuple[str, ...] = field(metadata=PATH)
    """Paths or globs of the files."""

    def check_files(self, paths: Iterable[Path]) -> None:
        """Refuse files that are empty, of another format or truncated."""
        check_files(paths, expected=self.EXPECTED)


class Trouble(NamedTuple):
    """The reason that a record is malformed (a key of `MALFORMED_REASONS`), and what was found."""

    reason: str
    detail: str


class Line(NamedTuple):
    """A physical line: its text without the end, the end ("", LF or CRLF), and any trouble with its bytes.

    Bytes that are not UTF-8 become lone surrogates in `text` (surrogateescape), so that the line can still be split.
    """

    number: int
    text: str
    end: str
    trouble: Trouble | None


def upstream_files(config: FilesConfig) -> list[Path]:
    """Return the files that a config names: globs expanded, duplicates dropped, sorted by path."""
    found: dict[Path, Path] = {}
    for pattern in config.files:
        path = Path(pattern).expanduser()
        names = [str(path)] if path.is_file() else glob.glob(str(path), recursive=True)  # noqa: PTH207  Path.glob takes no absolute one
        if path.is_dir() and config.IN_FOLDER:
            names = [str(file) for file in path.rglob("*") if _counts(file.relative_to(path), config.IN_FOLDER)]
        files = [file for file in map(Path, names) if file.is_file()]
        if not files:
            what = "does not exist, or matches no file: correct it, or download the files"
            if "://" in pattern:
                what = _DOWNLOAD_FIRST
            elif path.is_dir() and config.IN_FOLDER:
                what = f"is a folder without {' or '.join(config.IN_FOLDER)} files: name another"
            elif path.is_dir():
                what = f"is a folder: name the files in it, such as {path / '*'}"
            raise InputError(f"{pattern if '://' in pattern else path} {what}")
        for file in files:
            found.setdefault(file.resolve(), file)
    return sorted(found.values(), key=str)


def _counts(name: Path, suffixes: tuple[str, ...]) -> bool:
    """Return whether a file of a folder is read: it is not hidden, and not a cache of `datasets`."""
    is_hidden = any(part.startswith(".") for part in name.parts) or name.name.startswith("cache-")
    return not is_hidden and name.suffix.lower() in suffixes


def reading(name: object) -> AbstractContextManager[None]:
    """Say of any error in the block that a file cannot be read."""
    return about(f"{name} cannot be read", remedy="check its name and permissions, or download it again")


def open_bytes(path: Path) -> BufferedReader | gzip.GzipFile:
    """Open a file for reading; decompress it if its content (not its name) is gzip."""
    with reading(path), path.open("rb") as file:
        is_gzip = file.read(len(_GZIP_MAGIC)) == _GZIP_MAGIC
    return gzip.open(path, "rb") if is_gzip else path.open("rb")


def check_text_file(path: Path, *, expected: str) -> None:
    """Refuse a file that is empty, of another format or truncated; `expected` says what it should be ("a WIT TSV")."""
    with reading(path), open_bytes(path) as file:
        head = file.read(8)
        while isinstance(file, gzip.GzipFile) and file.read(2**20):  # the checksum is at the end
            continue
    found = [what for magic, what in _FOREIGN_MAGIC.items() if head.startswith(magic)]
    if found or not head:
        raise InputError(f"{path} is {found[0] if found else 'empty'}; expected {expected}")


def check_files(paths: Iterable[Path], *, expected: str) -> None:
    """Check files as `check_text_file` does, except those that are named as Parquet, which their reader checks."""
    for path in paths:
        if path.suffix.lower() != ".parquet":
            check_text_file(path, expected=expected)


def read_lines(path: Path) -> Iterator[Line]:
    """Yield every physical line of a plain or gzipped file, in constant memory; only LF ends a line.

    A leading byte order mark is skipped. A line longer than `MAX_LINE_BYTES` is cut and has a trouble.
    """
    with open_bytes(path) as file:
        yield from lines_of(file, path)


def lines_of(file: BufferedReader | gzip.GzipFile, name: object) -> Iterator[Line]:
    """Yield the lines of an open file or pipe, as `read_lines` does; it need not be seekable."""
    number = 0
    with reading(name):
        while raw := file.readline(MAX_LINE_BYTES):
            number += 1
            if number == 1:
                raw = raw.removeprefix(BOM)
            if len(raw) < MAX_LINE_BYTES or raw.endswith(b"\n"):
                yield decode_line(number, raw)
                continue
            while (more := file.readline(MAX_LINE_BYTES)) and not more.endswith(b"\n"):
                continue
            text = raw[:MAX_EXCERPT_CHARS].decode("utf-8", "surrogateescape")
            trouble = Trouble("malformed_row", f"the line is longer than {MAX_LINE_BYTES} bytes")
            yield Line(number, text, "\n", trouble)


def first_text(path: Path) -> str:
    """Return the first line of a file that is not blank, without surrounding white space; "" if there is none."""
    return next((text for line in read_lines(path) if (text := line.text.strip())), "")


def decode_line(number: int, raw: bytes) -> Line:
    """Return the bytes of a line as text."""
    end = "\r\n" if raw.endswith(b"\r\n") else "\n" if raw.endswith(b"\n") else ""
    body = raw[: len(raw) - len(end)]
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        detail = f"byte 0x{body[error.start]:02x} at offset {error.start} of the line is not UTF-8"
        return Line(number, body.decode("utf-8", "surrogateescape"), end, Trouble("bad_encoding", detail))
    if "\0" in text:
        return Line(number, text, end, Trouble("bad_encoding", f"a NUL at character {text.index(chr(0))} of the line"))
    return Line(number, text, end, None)


def text_trouble(text: str | None) -> Trouble | None:
    """Return the trouble of a text that cannot be stored as UTF-8 (a NUL or a lone surrogate), or None."""
    found = _UNSTORABLE.search(text) if text else None
    if found is None:
        return None
    what = "a NUL" if found.group() == "\0" else f"U+{ord(found.group()):04X}, which no UTF-8 text has,"
    return Trouble("bad_encoding", f"{what} at character {found.start()}")


def excerpt(text: str) -> str:
    """Return the first `MAX_EXCERPT_CHARS` characters of a text; characters that cannot be stored are escaped."""

    def escape(found: re.Match[str]) -> str:
        code = ord(found.group())
        if 0xDC80 <= code <= 0xDCFF:  # surrogateescape: the byte itself
            return f"\\x{code - 0xDC00:02x}"
        return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"

    return _UNSTORABLE.sub(escape, text[:MAX_EXCERPT_CHARS])[:MAX_EXCERPT_CHARS]

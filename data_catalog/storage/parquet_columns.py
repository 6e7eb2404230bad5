"""Reading columns of a snapshot's files: a damaged one is told by its name."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from data_catalog.errors import ConfigError


@contextmanager
def damage_told(path: Path) -> Iterator[None]:
    """While a Parquet file is read, say in a sentence that it is damaged or missing.

    Raises:
        ConfigError: it is.
    """
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        raise ConfigError(f"{path} cannot be read ({error}): `vernaclip verify` lists all that is damaged") from error


def read_columns(path: Path, names: Sequence[str] | None) -> pa.Table:
    """Columns of a file; `read_table`, as any scalar of Arrow, would load pandas: that takes longer than an answer.

    Raises:
        ConfigError: the file is damaged or missing.
    """
    with damage_told(path), pq.ParquetFile(path) as file:
        return file.read(columns=None if names is None else list(names))


def column_names(path: Path) -> list[str]:
    """Names of the columns that a file has.

    Raises:
        ConfigError: the file is damaged or missing.
    """
    with damage_told(path):
        names: list[str] = pq.read_schema(path).names
        return names

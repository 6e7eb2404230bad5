"""Features of frozen towers, computed once for each image or caption and kept beside the run until its phase ends.

What is kept is what goes into a tower's projection, or what comes out of a tower that is locked with its projection.
The kept features depend on the settings and the order of epochs alone, so a run that goes on computes the same again.
"""

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from data_catalog.storage.disk_errors import disk_errors
from training.data.pairs import Integers

Encode = Callable[[torch.Tensor], torch.Tensor]


class FeatureStore:
    """A row of features for each index, in a file without a name that is gone with the process.

    Args:
        count: how many rows there may be.
        folder: on whose disk the file is; it takes `count` times the size of a row.
    """

    def __init__(self, count: int, folder: Path) -> None:

        self._folder = folder
        self._is_there = np.zeros(count, dtype=bool)
        self._rows: Any = None

    def missing(self, indices: Integers) -> Integers:
        """Those of some indices that have no row yet, each once, in order."""
        found: Integers = np.unique(indices[~self._is_there[indices]])
        return found

    def put(self, indices: Integers, rows: torch.Tensor) -> None:
        """Keep rows.

        Raises:
            DiskError: the disk is full.
        """
        if self._rows is None:
            self._rows = self._allocated(tuple(rows.shape[1:]))
        self._rows[indices] = rows.numpy()
        self._is_there[indices] = True

    def rows(self, indices: Integers) -> torch.Tensor:
        """Rows that are there: float32."""
        return torch.from_numpy(self._rows[indices])

    def _allocated(self, shape: Sequence[int]) -> Any:
        """All rows as a file in memory; its blocks are taken now, since nobody could be told later of a full disk."""
        whole = (len(self._is_there), *shape)
        with disk_errors(self._folder), tempfile.TemporaryFile(dir=self._folder) as file:
            os.posix_fallocate(file.fileno(), 0, max(1, 4 * int(np.prod(whole))))
            return np.memmap(file, dtype=np.float32, mode="r+", shape=whole)


@contextmanager
def without(tower: Any, name: str) -> Iterator[None]:
    """A tower that gives, while inside, what otherwise goes into its projection of that name."""
    projection = getattr(tower, name)
    setattr(tower, name, nn.Identity() if isinstance(projection, nn.Module) else None)
    try:
        yield
    finally:
        setattr(tower, name, projection)


def projected(tower: Any, name: str) -> Encode:
    """What a tower's projection of that name makes of the features that go into it."""

    def project(features: torch.Tensor) -> torch.Tensor:
        projection = getattr(tower, name)
        found: torch.Tensor = projection(features) if isinstance(projection, nn.Module) else features @ projection
        return found

    return project

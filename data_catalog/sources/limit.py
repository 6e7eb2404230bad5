"""At most so many rows of a source: whole samples, drawn by a hash of their ids, in two passes of bounded memory."""

from collections.abc import Iterable
from dataclasses import dataclass
from heapq import heappop, heappush
from typing import Any

from data_catalog.errors import SettingsError
from data_catalog.storage.shards import order_key

# Why a row is unselected that the limit leaves out.
BEYOND_LIMIT = "limit"


@dataclass(frozen=True, slots=True, kw_only=True)
class RowLimit:
    """Number of rows of a source that are read: the same ones, in whatever order its files have them."""

    limit: int = 0
    """Most rows of the source, drawn at random from those that the other settings select: all captions of an image or
    none. A row that cannot be read counts. A larger limit draws the same rows and others; 0: all rows."""
    limit_seed: int = 0
    """Seed of the drawing of rows: another one draws others."""

    def __post_init__(self) -> None:
        """Refuse a negative limit."""
        if self.limit < 0:
            raise SettingsError(f"limit must not be negative, got {self.limit}")

    def stated(self) -> dict[str, Any]:
        """Return the settings for keys and manifest; empty where all rows are read."""
        return {"limit": self.limit, "limit_seed": self.limit_seed} if self.limit else {}

    def place(self, sample_id: str) -> int:
        """Return where a sample is in the order in which samples are drawn."""
        return int(order_key(f"{self.limit_seed}\0{sample_id}"), 16)

    def draw(self, sample_ids: Iterable[str]) -> "Drawn":
        """Return which samples are drawn, given the sample of every row; holds at most `limit` numbers at once."""
        counts: dict[int, int] = {}
        last_first: list[int] = []
        end, num_rows, num_drawn = 16**16, 0, 0
        for sample_id in sample_ids:
            num_rows += 1
            place = self.place(sample_id)
            if place >= end:
                continue
            if place not in counts:
                heappush(last_first, -place)
            counts[place] = counts.get(place, 0) + 1
            num_drawn += 1
            while num_drawn > self.limit:  # rows only become more: what is too much now stays too much
                end = -heappop(last_first)
                num_drawn -= counts.pop(end)
        return Drawn(limit=self, end=end, num_rows=num_rows, num_drawn=num_drawn)


ALL_ROWS = RowLimit()


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """The samples that a limit draws: those with a place before `end`; and how many rows there are, and are drawn."""

    limit: RowLimit
    end: int
    num_rows: int
    num_drawn: int

    def __contains__(self, sample_id: str) -> bool:
        """Tell whether a sample is drawn."""
        return self.limit.place(sample_id) < self.end

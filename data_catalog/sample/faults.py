"""Give images of the sample the faults of the real web, and keep the ledger of all."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

from data_catalog.sample.config import FAULTS, MOST_FAULTY
from data_catalog.sample.scene import shuffled


@dataclass(slots=True)
class Ledger:
    """Every fault that was put in, in the order of writing."""

    entries: list[dict[str, Any]] = field(default_factory=list)

    def record(self, kind: str, source: str, **facts: Any) -> None:
        """Note one fault with what identifies it: `url` or `path`, `caption`, `caption_id`, `same_as`."""
        if kind not in FAULTS:
            raise KeyError(kind)
        self.entries.append({"kind": kind, "source": source, **facts})

    def as_json(self) -> dict[str, Any]:
        """The ledger with the meaning of every kind."""
        return {"kinds": {kind: fault.meaning for kind, fault in FAULTS.items()}, "faults": self.entries}


def assign(
    source: str, indices: Sequence[int], rng: Random, rates: Mapping[str, float] | None = None
) -> dict[int, str]:
    """Which images of a source have which fault; never more than half of them have one.

    Args:
        rates: in the place of those of `FAULTS`; a kind that they give 0 has no image.
    """
    rates = rates or {}
    waiting = shuffled(rng, indices)[: int(len(indices) * MOST_FAULTY)]
    assigned: dict[int, str] = {}
    for kind, fault in FAULTS.items():
        if source in fault.sources:
            rate = rates.get(kind, fault.rate)
            count = max(1, round(rate * len(indices))) if rate else 0
            victims, waiting = waiting[:count], waiting[count:]
            assigned.update(dict.fromkeys(victims, kind))
    return assigned

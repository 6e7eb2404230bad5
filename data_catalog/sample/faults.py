"""The faults of the real web that the sample carries: kinds and rates, which image has one, and the ledger of all."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

from data_catalog.errors import ConfigError
from data_catalog.sample.scene import shuffled

WIT, COCO, CC3M, FLICKR8K = "wit", "coco", "cc3m", "flickr8k"
SOURCES = (WIT, COCO, CC3M, FLICKR8K)
_ON_THE_WEB = (WIT, COCO, CC3M)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """A kind of fault.

    Args:
        sources: the datasets that have it.
        rate: share of those datasets' images that have it (at least one image each).
        meaning: what was done, and what a good catalog makes of it.
    """

    sources: tuple[str, ...]
    rate: float
    meaning: str


MOST_FAULTY = 0.5  # share of a source's images

# An image has at most one fault; of several captions of one image at most one is faulty.
FAULTS = {
    "dead_link": Fault(sources=_ON_THE_WEB, rate=0.02, meaning="the URL answers 404: rejected"),
    "missing_file": Fault(sources=(FLICKR8K,), rate=0.007, meaning="the local image is absent: rejected"),
    "html_instead_of_image": Fault(sources=_ON_THE_WEB, rate=0.007, meaning="a .jpg URL sends HTML: rejected"),
    "truncated_image": Fault(sources=SOURCES, rate=0.007, meaning="the JPEG file ends in its middle: rejected"),
    "tiny_image": Fault(sources=_ON_THE_WEB, rate=0.003, meaning="a picture of 1x1 pixel: rejected"),
    "duplicate_image": Fault(
        sources=_ON_THE_WEB, rate=0.01, meaning="the bytes of another image (`same_as`): one of the two is rejected"
    ),
    "redirect": Fault(sources=_ON_THE_WEB, rate=0.005, meaning="the URL answers 302 to another: kept"),
    "flaky": Fault(sources=_ON_THE_WEB, rate=0.003, meaning="the first request answers 503: kept if it is tried again"),
    "wrong_language": Fault(sources=SOURCES, rate=0.015, meaning="a caption in another language: rejected"),
    "mojibake": Fault(sources=(WIT,), rate=0.02, meaning="UTF-8 read as Windows-1252: repaired and kept"),
    "bare_name": Fault(sources=(WIT,), rate=0.02, meaning="the caption is a proper name: rejected"),
    "empty_caption": Fault(sources=(COCO, CC3M, FLICKR8K), rate=0.004, meaning="the caption is empty: rejected"),
    "missing_caption": Fault(sources=(COCO, FLICKR8K), rate=0.002, meaning="the row has no caption field: rejected"),
    "short_caption": Fault(sources=SOURCES, rate=0.005, meaning="a caption of one word: rejected"),
    "file_name_caption": Fault(sources=SOURCES, rate=0.005, meaning="the caption is a file name: rejected"),
    "attribution_only": Fault(
        sources=(WIT,), rate=0.05, meaning="a WIT row with an attribution but no reference caption: not selected"
    ),
    "unterminated_quote": Fault(
        sources=(WIT,), rate=0.001, meaning="a WIT row whose last quote never closes: rejected"
    ),
    "unknown_image": Fault(sources=(COCO,), rate=0.001, meaning="one more annotation, of no image: rejected"),
    "wrong_field_count": Fault(sources=(CC3M,), rate=0.002, meaning="one more line, without a tab: rejected"),
}


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


def require_rates(rates: Mapping[str, float]) -> None:
    """Make sure that rates in the place of those of `FAULTS` can be had.

    Raises:
        ConfigError: there is no such fault, a rate is no share, or more than half of a source's images would have one.
    """
    for kind, rate in rates.items():
        if kind not in FAULTS:
            raise ConfigError(f"scenes.fault_rates names {kind!r}: there are {', '.join(FAULTS)}")
        if not 0 <= rate <= MOST_FAULTY:
            raise ConfigError(f"scenes.fault_rates.{kind} must be between 0 and {MOST_FAULTY}, got {rate}")
    for source in SOURCES if rates else ():
        total = sum(rates.get(kind, fault.rate) for kind, fault in FAULTS.items() if source in fault.sources)
        if total > MOST_FAULTY:
            raise ConfigError(
                f"scenes.fault_rates would give {total:.1%} of the images of {source} a fault, with the rates of the "
                f"kinds that they do not name: at most {MOST_FAULTY:.0%} may have one"
            )


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

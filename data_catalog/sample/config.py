"""Settings of the sample data: number of images, faults to put in, and the server."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from annotated_types import Ge, Interval

from data_catalog.base.errors import SettingsError
from data_catalog.base.settings import PATH, OneOf

MIN_IMAGES = 40
WIT, COCO, CC3M, FLICKR8K = "wit", "coco", "cc3m", "flickr8k"
SOURCES = (WIT, COCO, CC3M, FLICKR8K)
_WEB = (WIT, COCO, CC3M)


class Fault(NamedTuple):
    """A kind of fault that the sample contains on purpose."""

    sources: tuple[str, ...]  # the datasets that have it
    rate: float  # share of the images of these datasets that have it (at least one image in each)
    meaning: str  # the fault, and the expected outcome of its rows
    of_image: bool = False  # of the image, not of a caption or a row
    rule: Mapping[str, Any] = {}  # the server's rule for the image; `{}` in a location is the path of the image


MOST_FIGURES = 0.4  # maximum share of images with figures, which replace scenes of one group
MOST_FAULTY = 0.5  # maximum share of a source's images with a fault
_BUSY = {"status": 503, "times": 1, "retry_after_s": 1}
_HTML = {"content_type": "text/html; charset=utf-8"}

# An image has at most one fault; of several captions of one image at most one is faulty.
FAULTS = {
    "dead_link": Fault(_WEB, 0.02, "the URL answers 404: rejected", True),
    "missing_file": Fault((FLICKR8K,), 0.007, "the local image is absent: rejected", True),
    "html_instead_of_image": Fault(_WEB, 0.007, "a .jpg URL sends HTML: rejected", True, _HTML),
    "truncated_image": Fault(SOURCES, 0.007, "the JPEG file ends in its middle: rejected", True),
    "tiny_image": Fault(_WEB, 0.003, "a picture of 1x1 pixel: rejected", True),
    "duplicate_image": Fault(_WEB, 0.01, "the bytes of another image (`same_as`): one of the two is rejected", True),
    "redirect": Fault(_WEB, 0.005, "the URL answers 302 to another: kept", True, {"location": "/moved/{}"}),
    "flaky": Fault(_WEB, 0.003, "the first request answers 503: kept if it is tried again", True, _BUSY),
    "wrong_language": Fault(SOURCES, 0.015, "a caption in another language: rejected"),
    "mojibake": Fault((WIT,), 0.02, "UTF-8 read as Windows-1252: repaired and kept"),
    "bare_name": Fault((WIT,), 0.02, "the caption is a proper name: rejected"),
    "empty_caption": Fault((COCO, CC3M, FLICKR8K), 0.004, "the caption is empty: rejected"),
    "missing_caption": Fault((COCO, FLICKR8K), 0.002, "the row has no caption field: rejected"),
    "short_caption": Fault(SOURCES, 0.005, "a caption of one word: rejected"),
    "file_name_caption": Fault(SOURCES, 0.005, "the caption is a file name: rejected"),
    "attribution_only": Fault((WIT,), 0.05, "a WIT row with an attribution but no reference caption: not selected"),
    "unterminated_quote": Fault((WIT,), 0.001, "a WIT row whose last quote never closes: rejected"),
    "unknown_image": Fault((COCO,), 0.001, "one more annotation, of no image: rejected"),
    "wrong_field_count": Fault((CC3M,), 0.002, "one more line, without a tab: rejected"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ScenesConfig:
    """Settings of the sample data: where it is written, how many images it has, and with which faults."""

    folder: Path = field(metadata=PATH)
    """Folder of the sample. It must be absent or contain an earlier sample, which is replaced if it differs."""
    base_url: str
    """Base URL at which `<folder>/www` will be served, such as "http://127.0.0.1:8765"."""
    num_images: Annotated[int, Ge(MIN_IMAGES)] = 6000
    """Number of images in all four datasets together."""
    target_language: Literal["en", "it"] = "it"
    """Language of the native captions (the WIT file): "it" or "en"."""
    seed: int = 1
    """Random seed. Another seed draws another sample."""
    fault_rates: Mapping[Annotated[str, OneOf(FAULTS)], Annotated[float, Interval(ge=0, le=MOST_FAULTY)]] = field(
        default_factory=dict
    )
    """Shares of images with each fault (`dead_link`, `tiny_image` ...), at most 0.5, in the datasets that have it.
    Other faults keep their default rates."""
    figures: Annotated[float, Interval(ge=0, le=MOST_FIGURES)] = 0.0
    """Share of images that show few kinds of figures: two or three equal ones in a colour, or two in ink side by side
    ("a star to the left of a square")."""

    def __post_init__(self) -> None:
        for source in SOURCES:
            total = sum(rate_of(kind, self.fault_rates) for kind, fault in FAULTS.items() if source in fault.sources)
            if total > MOST_FAULTY:
                raise SettingsError(
                    f"scenes.fault_rates, with the default rates of the other faults, would give {total:.1%} of the "
                    f"images of {source} a fault: at most {MOST_FAULTY:.0%} may have one"
                )


def rate_of(kind: str, rates: Mapping[str, float]) -> float:
    """Return the share of images with a fault, by other rates than the default ones if there are any."""
    return rates.get(kind, FAULTS[kind].rate)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeConfig:
    """Settings of the server: a folder that this machine serves while a build runs."""

    folder: Path = field(metadata=PATH)
    """Folder of the files to serve. The run itself may create it."""
    port: Annotated[int, Interval(ge=1, le=65535)]
    """Port on this machine. Changing it changes all image URLs."""

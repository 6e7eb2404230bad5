"""Settings of the sample data: number of images, faults to put in, and the server."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from data_catalog.errors import SettingsError
from data_catalog.settings import PATH, require_values

LANGUAGES = ("en", "it", "de")
MIN_IMAGES = 40
WIT, COCO, CC3M, FLICKR8K = "wit", "coco", "cc3m", "flickr8k"
SOURCES = (WIT, COCO, CC3M, FLICKR8K)
_ON_THE_WEB = (WIT, COCO, CC3M)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """A kind of fault that the sample contains on purpose.

    Args:
        sources: the datasets that have it.
        rate: share of the images of these datasets that have it (at least one image in each).
        meaning: the fault, and the expected outcome of its rows.
    """

    sources: tuple[str, ...]
    rate: float
    meaning: str


MOST_FIGURES = 0.4  # maximum share of images with figures, which replace scenes of one group
MOST_FAULTY = 0.5  # maximum share of a source's images with a fault

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


@dataclass(frozen=True, slots=True, kw_only=True)
class ScenesConfig:
    """Settings of the sample data: where it is written, how many images it has, and with which faults."""

    folder: Path = field(metadata=PATH)
    """Folder of the sample. It must be absent or contain an earlier sample, which is replaced if it differs."""
    base_url: str
    """Base URL at which `<folder>/www` will be served, such as "http://127.0.0.1:8765"."""
    num_images: int = 6000
    """Number of images in all four datasets together, at least 40."""
    target_language: str = "it"
    """Language of the native captions (the WIT file): "it", "de" or "en"."""
    seed: int = 1
    """Random seed. Another seed draws another sample."""
    fault_rates: Mapping[str, float] = field(default_factory=dict)
    """Shares of images with each fault (`dead_link`, `tiny_image` ...), at most 0.5, in the datasets that have it.
    Other faults keep their default rates."""
    figures: float = 0.0
    """Share of images, at most 0.4, that show few kinds of figures: two or three equal ones in a colour, or two in ink
    side by side ("a star to the left of a square")."""

    def __post_init__(self) -> None:
        if self.num_images < MIN_IMAGES:
            raise SettingsError(f"scenes.num_images must be at least {MIN_IMAGES}, got {self.num_images}")
        require_values("scenes", self, "", target_language=LANGUAGES)
        require_rates(self.fault_rates)
        if not 0 <= self.figures <= MOST_FIGURES:
            raise SettingsError(f"scenes.figures must be between 0 and {MOST_FIGURES}, got {self.figures}")
        if not self.base_url.startswith(("http://", "https://")) or self.base_url.endswith("/"):
            raise SettingsError(
                f"scenes.base_url must be http(s)://host:port without a final slash, got {self.base_url}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeConfig:
    """Settings of the server: a folder that this machine serves while a build runs."""

    folder: Path = field(metadata=PATH)
    """Folder of the files to serve. The run itself may create it."""
    port: int
    """Port on this machine. Changing it changes all image URLs."""

    def __post_init__(self) -> None:
        if not 1 <= self.port <= 65535:
            raise SettingsError(f"serve.port must be from 1 to 65535, got {self.port}")


def require_rates(rates: Mapping[str, float]) -> None:
    """Check rates that replace those of `FAULTS`."""
    for kind, rate in rates.items():
        if kind not in FAULTS:
            raise SettingsError(f"scenes.fault_rates has the unknown fault {kind!r}: known are {', '.join(FAULTS)}")
        if not 0 <= rate <= MOST_FAULTY:
            raise SettingsError(f"scenes.fault_rates.{kind} must be between 0 and {MOST_FAULTY}, got {rate}")
    for source in SOURCES if rates else ():
        total = sum(rates.get(kind, fault.rate) for kind, fault in FAULTS.items() if source in fault.sources)
        if total > MOST_FAULTY:
            raise SettingsError(
                f"scenes.fault_rates, with the default rates of the other faults, would give {total:.1%} of the images "
                f"of {source} a fault: at most {MOST_FAULTY:.0%} may have one"
            )

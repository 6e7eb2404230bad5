"""What X-Robots-Tag headers forbid, and to whom; TDM-Reservation is one more directive for everybody."""

import re
from collections.abc import Iterable

# Against indexing, against images in an index, and against use for training: what each means for a dataset is the same.
FORBIDDING = frozenset({"noai", "noimageai", "noindex", "noimageindex", "noml", "none"})
# W3C's TDM Reservation Protocol: a header of its own, which `GuardedResponse.robots_tags` lists with the others.
TDM_RESERVATION = "tdm-reservation"
# Directives that hold a colon themselves, so that what stands before it is no robot's name.
_WITH_VALUE = frozenset(
    {"unavailable_after", "max-snippet", "max-image-preview", "max-video-preview", TDM_RESERVATION, *FORBIDDING}
)
_PREVIEW = re.compile(r"max-[a-z-]+\s*:\s*\S+")  # "none" is one of the values


def forbids(headers: Iterable[str], robot: str) -> bool:
    """Return True if one of the headers holds a forbidding directive for all robots or for the one of that name."""
    return any(_forbids(header.lower(), robot.lower()) for header in headers)


def _forbids(header: str, robot: str) -> bool:
    """Read directives that are separated by commas, semicolons or blanks; a robot's name holds up to the next one."""
    is_addressed = True
    for item in re.split("[,;]", header):
        name, colon, rest = (part.strip() for part in item.partition(":"))
        if (name, rest) == (TDM_RESERVATION, "1"):
            return True
        directives = item
        if colon and len(name.split()) == 1 and name not in _WITH_VALUE:
            is_addressed, directives = name == robot, rest
        if is_addressed and FORBIDDING.intersection(_PREVIEW.sub(" ", directives).replace(":", " ").split()):
            return True
    return False

"""What an X-Robots-Tag header forbids, and to whom."""

from collections.abc import Iterable

# Against indexing, against images in an index, and against use for training: what each means for a dataset is the same.
FORBIDDING = frozenset({"noai", "noimageai", "noindex", "noimageindex", "noml", "none"})
# Directives that hold a colon themselves, so that what stands before it is no robot's name.
_WITH_VALUE = frozenset({"unavailable_after", "max-snippet", "max-image-preview", "max-video-preview"})


def forbids(headers: Iterable[str], robot: str) -> bool:
    """True if one of the headers holds a forbidding directive for all robots or for the one of that name."""
    return any(_forbids(header.strip().lower(), robot.lower()) for header in headers)


def _forbids(header: str, robot: str) -> bool:
    name, colon, rest = header.partition(":")
    if colon and "," not in name and name.strip() not in _WITH_VALUE:
        if name.strip() != robot:
            return False
        header = rest
    return any(directive.strip() in FORBIDDING for directive in header.split(","))

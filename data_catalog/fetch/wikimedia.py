"""Thumbnails of Wikimedia's images, which robots are asked to take rather than originals, at the widths it serves."""

import re
from urllib.parse import unquote

from data_catalog.errors import ConfigError

# https://www.mediawiki.org/wiki/Common_thumbnail_sizes: any other width is refused.
WIDTHS = (20, 40, 60, 120, 250, 330, 500, 960, 1280, 1920, 3840)

# /wikipedia/<project>/<h>/<hh>/<name> is an original, /wikipedia/<project>/thumb/<h>/<hh>/<name>/<width>px-... is not.
_ORIGINAL = re.compile(
    r"(https?://upload\.wikimedia\.org/wikipedia/[\w-]+)/([0-9a-f]/[0-9a-f]{2}/([^/?]+\.(?:jpe?g|png|webp|svg|tiff?)))",
    re.IGNORECASE,
)
# Longer names get a thumbnail called "thumbnail".
_LONGEST_NAME_BYTES = 165


def check_width(width: int) -> None:
    """Raise `ConfigError` unless Wikimedia serves thumbnails of that width; 0 stands for originals."""
    if width and width not in WIDTHS:
        served = ", ".join(map(str, WIDTHS))
        raise ConfigError(
            f"fetch.wikimedia_width must be 0 (originals) or a width that is served ({served}), got {width}"
        )


def thumbnail_url(url: str, width: int) -> str | None:
    """The thumbnail of an original on Wikimedia's servers; None for any other URL, and where there is none.

    Args:
        url: canonical, as `urls.parse_url` gives it.
        width: of the thumbnail in pixels, from `WIDTHS`; smaller originals have none, so that asking for it fails.
    """
    found = _ORIGINAL.fullmatch(url)
    if found is None or not width:
        return None
    base, place, name = found.groups()
    short = name if len(unquote(name)) <= _LONGEST_NAME_BYTES else "thumbnail" + name[name.rindex(".") :]
    prefix, suffix = _affixes(name.rpartition(".")[2].lower())
    return f"{base}/thumb/{place}/{prefix}{width}px-{short}{suffix}"


def _affixes(extension: str) -> tuple[str, str]:
    """What stands before and behind a thumbnail's name: those of drawings and TIFFs are of another format."""
    if extension in ("tif", "tiff"):
        return "lossy-page1-", ".jpg"
    return "", ".png" if extension == "svg" else ""

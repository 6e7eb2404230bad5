"""Pictures that say that there is no picture: known by where a redirect leads."""

import re

# Names that hosts give to such files. Only a redirect is judged by them: a caption's own image may well be called so.
_NAMES = re.compile(
    r"(?:photo|image|img|picture|media|file)[-_]?(?:is[-_])?"
    r"(?:unavailable|not[-_]?(?:available|found)|missing|removed|deleted|coming[-_]?soon)"
    r"|(?<![a-z])no[-_]?(?:image|photo|picture|thumb(?:nail)?)(?:[-_]?available)?(?![a-z])"
    r"|^(?:removed|missing|404)(?:[-_]?(?:image|img|photo|picture|file))?$|^placeholder",
    re.IGNORECASE,
)


def is_placeholder(url: str, final_url: str) -> bool:
    """True if asking for `url` led to a file whose name says that it stands for a missing one."""
    stem = _stem(final_url)
    return stem != _stem(url) and _NAMES.search(stem) is not None


def _stem(url: str) -> str:
    """The file's name: the same before and after a redirect that only goes to HTTPS or to another host."""
    name = url.partition("?")[0].rpartition("/")[2]
    return name.rpartition(".")[0] or name

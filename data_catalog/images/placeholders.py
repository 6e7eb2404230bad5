"""Pictures that say that there is no picture: known by where a redirect leads."""

import re

# Names that hosts give to such files. Only a redirect is judged by them: a caption's own image may well be called so.
_NAMES = re.compile(
    r"(?:photo|image|img|picture|media|file)[-_]?(?:is[-_])?"
    r"(?:unavailable|not[-_]?(?:available|found)|missing|removed|deleted|coming[-_]?soon)"
    r"|no[-_]?(?:image|photo|picture|thumb(?:nail)?)(?:[-_]?available)?|^removed|^placeholder|^missing|^404",
    re.IGNORECASE,
)


def is_placeholder(url: str, final_url: str) -> bool:
    """True if asking for `url` led to a file whose name says that it stands for a missing one."""
    if url == final_url:
        return False
    stem = final_url.partition("?")[0].rpartition("/")[2].rpartition(".")[0]
    return _NAMES.search(stem) is not None

"""Names of images inside a folder or an archive: which can be reached, and which member one means."""

import re
from collections.abc import Hashable, Mapping
from pathlib import PurePosixPath
from typing import Generic, TypeVar

Entry = TypeVar("Entry", bound=Hashable)

_WINDOWS_ROOT = re.compile(r"[A-Za-z]:[\\/]|\\\\")


def inner_name(name: str) -> str | None:
    """The name without "." and empty parts, or None where it is empty, absolute (Windows included) or holds ".."."""
    path = PurePosixPath(name)
    if not path.parts or path.is_absolute() or ".." in path.parts or "\0" in name or _WINDOWS_ROOT.match(name):
        return None
    return str(path)


def wanted_name(name: str) -> str:
    """`inner_name` of a name that is asked for.

    Raises:
        FileNotFoundError: it is no name of anything inside.
    """
    inner = inner_name(name)
    if inner is None:
        raise FileNotFoundError(f"not a name inside the images: {name!r}")
    return inner


class MemberNames(Generic[Entry]):
    """The members of an archive by name, or by the one member that has the name's last parts in another folder.

    Names are exact, upper and lower case included. A member may have several names.

    Args:
        members: entries by names that `inner_name` has passed.
    """

    def __init__(self, members: Mapping[str, Entry]) -> None:
        self.members = members
        self._by_basename: dict[str, list[str]] = {}
        for name in members:
            self._by_basename.setdefault(name.rpartition("/")[2], []).append(name)

    def find(self, name: str) -> Entry:
        """The entry that a name means.

        Raises:
            FileNotFoundError: there is none, or more than one.
        """
        wanted = wanted_name(name)
        if (exact := self.members.get(wanted)) is not None:
            return exact
        candidates = self._by_basename.get(wanted.rpartition("/")[2], [])
        matches = {self.members[candidate] for candidate in candidates if _same_tail(candidate, wanted)}
        if len(matches) != 1:
            raise FileNotFoundError(f"{len(matches) or 'no'} members for {name!r}")
        return matches.pop()


def _same_tail(one: str, other: str) -> bool:
    shorter, longer = sorted((one, other), key=len)
    return f"/{longer}".endswith(f"/{shorter}")

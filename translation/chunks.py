"""Fixed chunks of captions: the unit in which translations are made, recorded and resumed."""

from collections.abc import Iterable

CHUNK_SIZE = 20_000


def plan(captions: Iterable[str], *, chunk_size: int = CHUNK_SIZE) -> list[list[str]]:
    """The distinct captions in the order of their first occurrence, `chunk_size` in each chunk but the last.

    A plan is to be kept and read again on resume: a chunk's translations depend, in rare last digits, on its members.
    """
    distinct = list(dict.fromkeys(captions))
    return [distinct[start : start + chunk_size] for start in range(0, len(distinct), chunk_size)]

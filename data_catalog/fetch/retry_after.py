"""How long to wait before asking again: what the server says, else ever longer with some chance in it."""

import random
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

MAX_BACKOFF_S = 300.0


def retry_after_s(header: str | None, now: datetime | None = None) -> float | None:
    """Seconds that a Retry-After header asks for, by number or by date; None if it says nothing that makes sense."""
    text = (header or "").strip()
    if text.isascii() and text.isdigit():
        return float(text[:12])
    try:
        asked: datetime = parsedate_to_datetime(text)
    except (ValueError, OverflowError):  # of zones and years beyond all measure
        return None
    asked = asked if asked.tzinfo else asked.replace(tzinfo=UTC)
    wait_s: float = (asked - (now or datetime.now(UTC))).total_seconds()
    return max(0.0, wait_s)


def backoff_s(first_s: float, tries: int, rng: random.Random) -> float:
    """The wait after so many failed tries: doubled with each, and up to half as much again by chance.

    Chance keeps rows that failed together from coming back together.
    """
    return min(MAX_BACKOFF_S, first_s * 2.0 ** (tries - 1)) * rng.uniform(1.0, 1.5)

"""How far a run is on its way through its phases, as one number and one line."""

from collections.abc import Sequence


class RunProgress:
    """Counts units done by phase; what it says of the whole never goes back.

    Args:
        phases: what the run will go through, in order; each counts as an equal part of the whole. Further ones that
            show up are named, and count for nothing. Without any, those that show up are all there is.
    """

    def __init__(self, phases: Sequence[str] = ()) -> None:
        self._phases = tuple(phases)
        self._seen: dict[str, tuple[int, int]] = {}
        self.percent = 0.0

    def note(self, phase: str, *, done: int, total: int) -> None:
        """Note that `done` of `total` units of a phase are done."""
        self._seen[phase] = done, total
        shares = [_share(*count) for name, count in self._seen.items() if name in self._phases or not self._phases]
        self.percent = max(self.percent, 100.0 * sum(shares) / len(self._phases or self._seen))

    @property
    def text(self) -> str:
        """The phases under way with their counts, or the last one that is done."""
        under_way = [f"{name}: {done:,} of {total:,}" for name, (done, total) in self._seen.items() if done < total]
        if under_way:
            return ", ".join(under_way)
        return f"{list(self._seen)[-1]}: done" if self._seen else "begun"


def _share(done: int, total: int) -> float:
    return min(1.0, done / total) if total else 1.0

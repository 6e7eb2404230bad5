"""The definition of a drop reason."""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Reason:
    """A drop reason of a step.

    Args:
        meaning: what it means, in one sentence.
        settings: paths of the settings that decide it, such as `clean.min_words`; empty if none does.
    """

    meaning: str
    settings: tuple[str, ...] = field(default=(), kw_only=True)

"""What a step may drop a row for: what the reason means, and which settings of a recipe decide it."""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Reason:
    """A reason of a step.

    Args:
        meaning: in a sentence.
        settings: those that decide it, by path in a recipe, such as `clean.min_words`; none: no setting does.
    """

    meaning: str
    settings: tuple[str, ...] = field(default=(), kw_only=True)

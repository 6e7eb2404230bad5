"""The definition of a drop reason."""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Reason:
    """A drop reason of a step: what it means, and the settings that decide it, such as `clean.min_words`, if any do."""

    meaning: str
    settings: tuple[str, ...] = field(default=(), kw_only=True)

"""The part of a model card that says what training cost: time, hardware, and energy where it was measured."""

from collections.abc import Sequence

from data_catalog.exports.markdown import bullets, markdown_text
from training.effort import EFFORT_FILE, Attempt
from training.exports import card_texts

_JOULES_IN_KWH = 3_600_000


def cost_section(attempts: Sequence[Attempt]) -> str:
    """Time, hardware and energy of all attempts together."""
    if not attempts:
        return f"Not known: `{EFFORT_FILE}`, where training notes it, was removed."
    hardware = sorted({markdown_text(name) for found in attempts for name in found.hardware})
    machines = max(found.processes for found in attempts)
    together = f" Up to {machines} processes trained together; what follows is of the first one's machine." * (
        machines > 1
    )
    tries = f"{len(attempts)} attempts" if len(attempts) > 1 else "one attempt"
    time = f"{duration(sum(found.seconds for found in attempts))} in {tries}, on {', '.join(hardware)}.{together}"
    return f"{time}\n\n{bullets(_energy(attempts))}\n\n{card_texts.ENERGY}"


def duration(seconds: float) -> str:
    """Such as "2 h 5 min 7 s"."""
    whole = round(seconds)
    parts = [(whole // 3600, "h"), (whole // 60 % 60, "min"), (whole % 60, "s")]
    return " ".join(f"{value} {unit}" for value, unit in parts if value) or "less than a second"


def _energy(attempts: Sequence[Attempt]) -> list[str]:
    """A line a counter, with how many attempts it was read in; then what was not measured, and why."""
    lines = []
    for name in sorted({name for found in attempts for name in found.joules}):
        read = [found.joules[name] for found in attempts if name in found.joules]
        some = "" if len(read) == len(attempts) else f", in {len(read)} of {len(attempts)} attempts"
        lines.append(f"{markdown_text(name)}: {sum(read) / _JOULES_IN_KWH:,.4f} kWh{some}")
    reasons = sorted({reason for found in attempts for reason in found.not_measured})
    return [*lines, *(f"Not measured: {markdown_text(reason)}" for reason in reasons)]

"""What each reason for which a row is dropped means, whichever step it belongs to."""

from cleaning.reasons import REASONS
from data_catalog.fetch.reasons import FETCH_REASONS, NORMALISE_REASONS
from data_catalog.sources.rows import MALFORMED_REASONS
from flows.build.step_outputs import FETCH, INGEST, NORMALISE, TRANSLATE
from flows.build.translate_reasons import TRANSLATE_REASONS

STEP_MEANINGS = {
    "ingest": "reading the upstream files",
    "forget": "obeying take-downs",
    "clean": "cleaning captions and judging them as they are upstream",
    "screen": "looking for test sets and for repeated captions",
    "translate": "translating",
    "check": "judging the captions in the target language",
    "fetch": "getting the images",
    "normalise": "decoding and resizing the images",
    "deduplicate": "looking for images and captions that are there already",
}


def meaning_of(step: str, reason: str) -> str:
    """One sentence for a reason; empty for one that this version does not know."""
    if reason == "forgotten":
        return "a take-down asks for the image to be forgotten"
    return _MEANINGS.get(step, {}).get(reason, "")


_MEANINGS: dict[str, dict[str, str]] = {
    **REASONS,
    INGEST: MALFORMED_REASONS,
    TRANSLATE: TRANSLATE_REASONS,
    FETCH: {name: reason.meaning for name, reason in FETCH_REASONS.items()},
    NORMALISE: {name: reason.meaning for name, reason in NORMALISE_REASONS.items()},
}

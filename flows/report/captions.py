"""What the page says of captions: their languages and lengths, why some were dropped, how they were translated."""

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from typing import Any

from data_catalog.sources.origins import HAS_ORIGINAL
from data_catalog.storage.manifest import Snapshot
from flows.report.questions import Questions
from flows.tables import decided_text

Rows = list[dict[str, Any]]

# Of many engines, languages, licences ... the page lists the most frequent ones.
MAX_LISTED = 12
MAX_ENGINES = 4
# Samples of translations are drawn from this many equal parts of an engine's captions, worst scores to best.
SCORE_PARTS = 5
SCORE_BINS = 40
_LEAST_BIN = 0.0001

# By what upstream says; by what the language finder says of captions as they came, and in the target language.
LANGUAGES = f"""
    SELECT {{'said': GROUPING(detected_source_lang, detected_lang) = 3, 'found': GROUPING(detected_source_lang) = 0,
            'translated': GROUPING(detected_lang) = 0}} AS of,
           source_lang, detected_source_lang, target_lang, detected_lang, count(*) AS num_captions,
           count(*) FILTER (outcome = 'kept') AS num_kept,
           count(*) FILTER (drop_reason = 'wrong_language') AS num_wrong
    FROM (SELECT * REPLACE (CASE WHEN {HAS_ORIGINAL} THEN detected_lang END AS detected_lang) FROM captions)
    GROUP BY GROUPING SETS ((source_lang), (source_lang, detected_source_lang), (target_lang, detected_lang))
    ORDER BY ALL
"""

# Cleaning leaves one blank between words, so blanks count words.
LENGTHS = f"""
    SELECT CASE WHEN GROUPING(words_before) = 0 THEN 'words' WHEN GROUPING(words) = 0 THEN 'words'
                ELSE 'characters' END AS unit,
           GROUPING(words_before, characters_before) < 3 AS is_before, has_original,
           coalesce(words_before, words, characters_before, characters) AS value, count(*) AS num_captions
    FROM (
        SELECT {HAS_ORIGINAL} AS has_original,
               least($longest, length(clean_caption) - length(replace(clean_caption, ' ', '')) + 1) AS words_before,
               least($longest, length(caption) - length(replace(caption, ' ', '')) + 1) AS words,
               least($longest, length(clean_caption)) AS characters_before,
               least($longest, length(caption)) AS characters
        FROM captions WHERE outcome = 'kept'
    ) GROUP BY GROUPING SETS (
        (has_original, words_before), (has_original, words),
        (has_original, characters_before), (has_original, characters)
    ) HAVING value IS NOT NULL ORDER BY ALL
"""
LONGEST = 2000
AS_IT_CAME = "as upstream has them"

REASONS = """
    SELECT step, drop_reason, source, count(*) AS dropped, min_by(
        {{caption_id: caption_id, source: source, source_caption: source_caption, source_lang: source_lang,
          caption: caption, target_lang: target_lang, detail: detail, place: coalesce(url, path), file: upstream_file,
          line: upstream_line}},
        md5_number_lower(caption_id), {num_examples}
    ) AS examples
    FROM captions WHERE outcome = 'rejected' GROUP BY ALL ORDER BY dropped DESC, source
"""

ENGINES = f"""
    SELECT translator, origin, source_lang, target_lang, {HAS_ORIGINAL} AS has_original, count(*) AS num_captions,
           count(*) FILTER (outcome = 'kept') AS num_kept, avg(translation_score) AS mean_score,
           quantile_cont(translation_score, {[part / SCORE_PARTS for part in range(1, SCORE_PARTS)]})
               FILTER (outcome = 'kept') AS cuts,
           quantile_cont(translation_score, [0.005, 0.995]) AS ends,
           count(*) FILTER (translation_truncated) AS num_truncated,
           count(*) FILTER (translation_repetitive) AS num_repetitive,
           count(*) FILTER (len(numbers_lost) > 0 OR len(numbers_invented) > 0) AS num_numbers,
           avg(length_ratio) AS mean_length_ratio, avg(round_trip_chrf) AS mean_round_trip_chrf
    FROM captions WHERE caption IS NOT NULL GROUP BY ALL
    ORDER BY num_captions DESC, translator, origin, source_lang, target_lang
"""

SCORES = """
    SELECT greatest(0, least($last, floor((translation_score - $low) / $width)))::INTEGER AS bin,
           count(*) AS num_captions
    FROM captions WHERE translator = $translator AND translation_score IS NOT NULL GROUP BY ALL ORDER BY bin
"""

TRANSLATIONS = """
    SELECT part, min_by(
        {{caption_id: caption_id, source_caption: clean_caption, source_lang: source_lang, caption: caption,
          target_lang: target_lang, score: translation_score, truncated: translation_truncated,
          repetitive: translation_repetitive, numbers_lost: numbers_lost, numbers_invented: numbers_invented,
          detected_lang: detected_lang}},
        md5_number_lower(caption_id), {num_examples}
    ) AS examples
    FROM (
        SELECT *, CASE WHEN translation_score IS NOT NULL
                       THEN len(list_filter($cuts::DOUBLE[], lambda cut: translation_score > cut)) END AS part
        FROM captions
        WHERE outcome = 'kept' AND translator IS NOT DISTINCT FROM $translator AND origin IS NOT DISTINCT FROM $origin
              AND source_lang IS NOT DISTINCT FROM $source_lang
    ) GROUP BY part ORDER BY part NULLS LAST
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class DroppedFor:
    """All rows that were dropped at a step for one reason, with what decides it, and some of them as examples."""

    step: str
    reason: str
    meaning: str
    decided_by: str
    num_rows: int
    by_source: Mapping[str, int]
    examples: Rows


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """What one translator translated from one language: counts, and samples from its worst scores to its best."""

    facts: Mapping[str, Any]
    samples: Rows


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """Number of captions by translation score.

    Args:
        low: where the first bin begins; captions with lower scores, few, are in it as well.
        width: of a bin.
        counts: by engine, number of captions by bin, of which there are `SCORE_BINS`.
    """

    low: float
    width: float
    counts: Mapping[str, Mapping[int, int]]


def languages(ask: Questions) -> tuple[Rows, Rows]:
    """Captions by the language that upstream gives them; and by that which they should be in and are found to be in."""
    said: Rows = []
    found: Rows = []
    for row in ask.rows(LANGUAGES):
        of, counts = row["of"], {name: row[name] for name in ("num_captions", "num_kept", "num_wrong")}
        if of["said"]:
            said.append({"language": row["source_lang"], **counts})
        elif of["found"] and row["detected_source_lang"]:
            pair = {"said": row["source_lang"], "found": row["detected_source_lang"]}
            found.append({"side": "upstream", **pair, **counts})
        elif of["translated"] and row["detected_lang"]:
            found.append({"side": "translated", "said": row["target_lang"], "found": row["detected_lang"], **counts})
    return _largest_first(said), _largest_first(found, "side")


def _largest_first(rows: Rows, *within: str) -> Rows:
    by_size = sorted(rows, key=lambda row: -row["num_captions"])
    return sorted(by_size, key=lambda row: [row[name] for name in within], reverse=True)


def lengths(ask: Questions) -> dict[str, dict[str, dict[int, int]]]:
    """Number of kept captions by length: by unit, and by what they are, of which translated ones are two things."""
    found: dict[str, dict[str, dict[int, int]]] = {}
    for row in ask.rows(LENGTHS, longest=LONGEST):
        if row["is_before"] and not row["has_original"]:
            continue
        name = AS_IT_CAME if not row["has_original"] else "before translation" if row["is_before"] else "translated"
        found.setdefault(row["unit"], {}).setdefault(name, {})[row["value"]] = row["num_captions"]
    order = ("before translation", "translated", AS_IT_CAME)
    return {unit: {name: found[unit][name] for name in order if name in found[unit]} for unit in sorted(found)}


def dropped_for(ask: Questions, snapshot: Snapshot, *, num_examples: int) -> list[DroppedFor]:
    """Return why rows were dropped, by step in the order of the funnel, most frequent reasons of a step first."""
    groups: defaultdict[tuple[str, str], Rows] = defaultdict(list)
    for row in ask.rows(REASONS.format(num_examples=max(1, num_examples))):
        groups[row["step"], row["drop_reason"]].append(row)
    found = [_dropped_for(snapshot, step, reason, rows, num_examples) for (step, reason), rows in groups.items()]
    place = {step: number for number, step in enumerate(snapshot.steps)}
    return sorted(found, key=lambda drop: (place.get(drop.step, len(place)), -drop.num_rows, drop.reason))


def _dropped_for(snapshot: Snapshot, step: str, reason: str, rows: Rows, num_examples: int) -> DroppedFor:
    by_source = {row["source"]: row["dropped"] for row in rows}
    # One of each source in turn, so that no source hides the others.
    turns = zip_longest(*(row["examples"] for row in rows))
    examples = [example for example in chain.from_iterable(turns) if example is not None]
    return DroppedFor(
        step=step,
        reason=reason,
        meaning=snapshot.meaning(step, reason),
        decided_by=decided_text(snapshot.decided_by(step, reason)),
        num_rows=sum(by_source.values()),
        by_source=by_source,
        examples=examples[:num_examples],
    )


def engines(ask: Questions, *, num_examples: int) -> list[Engine]:
    """Who translated how much, and how surely; captions that nobody translated are of a translator `native`."""
    found = ask.rows(ENGINES)
    compared = [row for row in found if row["has_original"]]
    names = _translators(compared)
    return [
        Engine(
            facts=row,
            samples=_samples(ask, row, num_examples) if row in compared and row["translator"] in names else [],
        )
        for row in found
    ]


def scores(ask: Questions, found: Sequence[Engine]) -> Scores | None:
    """How the scores of engines are spread; None where no engine tells any."""
    ends = [end for engine in found for end in engine.facts["ends"] or ()]
    if not ends:
        return None
    low, width = min(ends), max((max(ends) - min(ends)) / SCORE_BINS, _LEAST_BIN)
    counts = {
        name: {
            row["bin"]: row["num_captions"]
            for row in ask.rows(SCORES, translator=name, low=low, width=width, last=SCORE_BINS - 1)
        }
        for name in _translators([engine.facts for engine in found if engine.facts["ends"]])
    }
    return Scores(low=low, width=width, counts=counts)


def _translators(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The translators of most captions."""
    return list(dict.fromkeys(row["translator"] for row in rows))[:MAX_ENGINES]


def _samples(ask: Questions, facts: Mapping[str, Any], num_examples: int) -> Rows:
    if num_examples == 0:
        return []
    rows = ask.rows(
        TRANSLATIONS.format(num_examples=num_examples),
        cuts=facts["cuts"] or [],
        translator=facts["translator"],
        origin=facts["origin"],
        source_lang=facts["source_lang"],
    )
    samples = sorted((example for row in rows for example in row["examples"]), key=_by_score)
    return [{**sample, "flags": _flags(sample)} for sample in samples]


def _by_score(sample: Mapping[str, Any]) -> tuple[float, str]:
    score = sample["score"]
    return (math.inf if score is None else score), sample["caption_id"]


def _flags(sample: Mapping[str, Any]) -> list[str]:
    """What is noteworthy of a translation that was kept all the same."""
    flags = [name for name in ("truncated", "repetitive") if sample[name]]
    flags += [
        f"{name.replace('_', ' ')}: {', '.join(sample[name])}"
        for name in ("numbers_lost", "numbers_invented")
        if sample[name]
    ]
    if sample["detected_lang"] and sample["detected_lang"] != sample["target_lang"]:
        flags.append(f"looks like {sample['detected_lang']}")
    return flags


def listed(rows: Rows, *sums: str, limit: int = MAX_LISTED) -> tuple[Rows, dict[str, int] | None]:
    """The first rows of a table, and the sums of some columns of the others, with their number as `rows`."""
    rest: Counter[str] = Counter(rows=max(0, len(rows) - limit))
    for row in rows[limit:]:
        rest.update({name: row[name] for name in sums})
    return rows[:limit], dict(rest) if len(rows) > limit else None

"""The contents of the report: rows that are queried from a snapshot's files, for each section of the templates."""

import base64
import io
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import chain, zip_longest
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from data_catalog.database.connections import snapshot_queries
from data_catalog.database.overview import heavy_losses
from data_catalog.fetch.config import IMG2DATASET, IMG2DATASET_LIMITS
from data_catalog.fetch.reasons import Diagnosis, diagnose
from data_catalog.plain_text import deciding_settings_text
from data_catalog.report.ablations import ablations_of
from data_catalog.schema import NATIVE
from data_catalog.sources.origins import HAS_ORIGINAL, ORIGINS
from data_catalog.storage.manifest import MARKED, SPLITS, FunnelCount, Manifest, Snapshot

if TYPE_CHECKING:
    from PIL.Image import Image

Rows = list[dict[str, Any]]
# Runs an SQL query, with parameters by name, and returns a dict for each row.
Query = Callable[..., Rows]

# Number of engines with samples and scores; those with the most captions come first.
_MAX_ENGINES = 4
# Samples of translations are drawn from this many equal parts of an engine's captions, sorted by score.
_SCORE_PARTS = 5
_SCORE_BINS = 40
_LEAST_BIN = 0.0001
_MAX_FILES = 20  # upstream files of each source
_PERCENTILES = ("low", "median", "high")
_MERGED = "the captions are published with a duplicate of their image, so none is lost"
# What says nothing of captions whose original is not there.
_COMPARED = (
    "mean_score",
    "mean_length_ratio",
    "num_numbers",
    "num_truncated",
    "num_repetitive",
    "mean_round_trip_chrf",
)
_LONGEST = 2000  # words or characters; longer captions are counted with this length

# Requested images by host and drop reason.
ASKED = """
    SELECT lower(regexp_extract(url, '^[a-zA-Z]+://([^/?#]+)', 1)) AS host, drop_reason, count(*) AS num_images
    FROM image_outcomes WHERE url IS NOT NULL GROUP BY ALL ORDER BY num_images DESC, host, drop_reason
"""

# Queries whose results the templates show unchanged, by the name that the templates use.
QUERIES = {
    # Published images by source, and of all sources in the last row.
    "published": f"""
        SELECT if(GROUPING(source) = 1, 'All', source) AS source, count(*) AS num_images,
               sum(len(captions))::BIGINT AS num_captions,
               {", ".join(f"count(*) FILTER (split = '{split}') AS {split}" for split in (*SPLITS, MARKED))}
        FROM pairs GROUP BY ROLLUP (source) ORDER BY GROUPING(source), source
    """,
    # Captions by the language that upstream states.
    "languages": """
        SELECT coalesce(source_lang, 'no language given') AS language, count(*) AS num_captions,
               count(*) FILTER (outcome = 'kept') AS num_kept,
               count(*) FILTER (drop_reason = 'wrong_language') AS num_wrong
        FROM captions GROUP BY ALL ORDER BY num_captions DESC, language
    """,
    # Detected languages of source captions and of translations.
    "detected_languages": f"""
        SELECT side, expected, detected, expected IS DISTINCT FROM detected AS is_odd, count(*) AS num_captions,
               count(*) FILTER (outcome = 'kept') AS num_kept
        FROM (
            SELECT 'upstream' AS side, source_lang AS expected, detected_source_lang AS detected, outcome FROM captions
            UNION ALL
            SELECT 'translated', target_lang, detected_lang, outcome FROM captions WHERE {HAS_ORIGINAL}
        ) WHERE detected <> '' GROUP BY ALL ORDER BY side DESC, num_captions DESC, expected, detected
    """,
    # Lengths of kept captions; translated ones count before and after translation. Cleaning leaves one blank between
    # words, so the number of words is the number of blanks plus one.
    "lengths": f"""
        WITH texts AS (
            SELECT 0 AS place, 'before translation' AS what, clean_caption AS text
            FROM captions WHERE outcome = 'kept' AND {HAS_ORIGINAL}
            UNION ALL
            SELECT if({HAS_ORIGINAL}, 1, 2), if({HAS_ORIGINAL}, 'translated', 'not translated'), caption
            FROM captions WHERE outcome = 'kept'
        )
        SELECT if(GROUPING(words) = 0, 'words', 'characters') AS unit, place, what,
               coalesce(words, characters) AS length, count(*) AS num_captions
        FROM (
            SELECT place, what, least({_LONGEST}, length(text)) AS characters,
                   least({_LONGEST}, length(text) - length(replace(text, ' ', '')) + 1) AS words
            FROM texts
        ) GROUP BY GROUPING SETS ((place, what, characters), (place, what, words))
        HAVING coalesce(words, characters) IS NOT NULL ORDER BY ALL
    """,
    "per_image": "SELECT len(captions) AS num_captions, count(*) AS num_images FROM pairs GROUP BY ALL ORDER BY ALL",
    # Sizes before normalisation, in eighths of an octave, so that any number of images gives few points.
    "sizes": """
        SELECT octaves.width - octaves.height AS aspect, avg(original_width) AS width, avg(original_height) AS height,
               count(*) AS num_images
        FROM (
            SELECT original_width, original_height, {'width': round(8 * log2(original_width))::INTEGER,
                   'height': round(8 * log2(original_height))::INTEGER} AS octaves
            FROM pairs WHERE least(original_width, original_height) > 0
        ) GROUP BY octaves ORDER BY octaves
    """,
    # Sides before normalisation with their percentiles 5, 50 and 95, and the published ones.
    "sides": """
        SELECT what, min(side) AS shortest, quantile_disc(side, 0.05) AS low, quantile_disc(side, 0.5) AS median,
               quantile_disc(side, 0.95) AS high, max(side) AS longest
        FROM (
            UNPIVOT (
                SELECT original_width AS "width, original", original_height AS "height, original",
                       width AS "width, published", height AS "height, published"
                FROM pairs
            ) ON * INTO NAME what VALUE side
        ) GROUP BY what ORDER BY what
    """,
    # Sizes of files in quarters of an octave.
    "file_sizes": """
        SELECT round(4 * log2(num_bytes))::INTEGER AS octave, count(*) AS num_images
        FROM image_outcomes WHERE drop_reason IS NULL AND num_bytes > 0 GROUP BY ALL ORDER BY octave
    """,
    "formats": """
        SELECT coalesce(original_format, 'unknown') AS format, count(*) AS num_images,
               sum(num_bytes)::BIGINT AS num_bytes, sum(num_bytes) / count(*) AS mean_bytes
        FROM image_outcomes WHERE drop_reason IS NULL GROUP BY format ORDER BY num_images DESC, format
    """,
    "hosts": f"""
        SELECT coalesce(nullif(host, ''), 'no host') AS name, sum(num_images)::BIGINT AS num_asked,
               coalesce(sum(num_images) FILTER (drop_reason IS NULL), 0)::BIGINT AS num_came,
               array_to_string(
                   list(drop_reason || ' ' || num_images ORDER BY num_images DESC, drop_reason)
                       FILTER (drop_reason IS NOT NULL), ', '
               ) AS reasons
        FROM ({ASKED}) GROUP BY ALL ORDER BY num_asked DESC, name
    """,
    "lost_images": """
        SELECT step, drop_reason, if(url IS NULL, 'files', 'the web') AS place, count(*) AS num_images
        FROM image_outcomes WHERE drop_reason IS NOT NULL GROUP BY ALL ORDER BY num_images DESC, drop_reason
    """,
    # Duplicates, the merged ones last: their captions are published with another image.
    "duplicates": """
        SELECT step, drop_reason, count(*) AS num_captions, count(DISTINCT sample_id) AS num_images
        FROM (
            SELECT step, drop_reason, sample_id FROM captions
            WHERE step = 'deduplicate' OR drop_reason = 'near_duplicate_caption'
            UNION ALL
            SELECT NULL, 'merged', sample_id FROM captions WHERE merged_into IS NOT NULL
        ) GROUP BY step, drop_reason ORDER BY step IS NULL, num_images DESC, drop_reason
    """,
    "leaks": """
        SELECT test_set, source, reason, outcome, count(DISTINCT sample_id) AS num_images, count(*) AS num_captions
        FROM (
            SELECT sample_id, source, split_part(detail, ': ', 1) AS test_set, drop_reason AS reason,
                   'dropped' AS outcome
            FROM captions WHERE drop_reason IN ('test_image', 'test_caption', 'test_pixels')
            UNION ALL
            SELECT sample_id, source, split_part(substr(mark, instr(mark, ' ') + 1), ': ', 1), split_part(mark, ' ', 1),
                   'marked'
            FROM (SELECT sample_id, source, unnest(leaks) AS mark FROM captions)
        ) GROUP BY ALL ORDER BY ALL
    """,
    "licenses": """
        SELECT source, license, count(*) AS num_images, count(attribution) AS num_attributed,
               count(page_url) AS num_with_page
        FROM pairs GROUP BY ALL ORDER BY source, num_images DESC, license
    """,
}

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
           quantile_cont(translation_score, {[part / _SCORE_PARTS for part in range(1, _SCORE_PARTS)]})
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

# Kept translations, with flags for defects that do not drop them.
TRANSLATIONS = """
    SELECT caption_id, source_caption, source_lang, caption, target_lang, score, [
        if(truncated, 'truncated', NULL), if(repetitive, 'repetitive', NULL),
        'numbers lost: ' || nullif(array_to_string(lost, ', '), ''),
        'numbers invented: ' || nullif(array_to_string(invented, ', '), ''),
        if(found <> target_lang, 'looks like ' || nullif(found, ''), NULL)
    ] AS flags
    FROM (
        SELECT unnest(examples, max_depth := 2)
        FROM (
            SELECT min_by(
                {{caption_id: caption_id, source_caption: clean_caption, source_lang: source_lang, caption: caption,
                  target_lang: target_lang, score: translation_score, truncated: translation_truncated,
                  repetitive: translation_repetitive, lost: numbers_lost, invented: numbers_invented,
                  found: detected_lang}},
                md5_number_lower(caption_id), {num_examples}
            ) AS examples
            FROM captions
            WHERE outcome = 'kept' AND translator IS NOT DISTINCT FROM $translator
                  AND origin IS NOT DISTINCT FROM $origin AND source_lang IS NOT DISTINCT FROM $source_lang
            GROUP BY CASE WHEN translation_score IS NOT NULL
                          THEN len(list_filter($cuts::DOUBLE[], lambda cut: translation_score > cut)) END
        )
    ) ORDER BY score NULLS LAST, caption_id
"""

_SIDE = 160
_QUALITY = 60
# Formats of published images. Other files are not decoded.
_FORMATS = ("JPEG", "PNG", "WEBP")
_GALLERY_IMAGES = 36
_GALLERY_GROUPS = 18
_MAX_DUPLICATES = 4  # of each reason

# Images are chosen by a hash of their ids, in turn from each of the largest groups of source and split. Only the chosen
# pictures are read.
CHOSEN = f"""
    SELECT chosen.sample_id AS sample_id, chosen.filename AS filename
    FROM (
        SELECT num_images, source, split, unnest(chosen) AS chosen, generate_subscripts(chosen, 1) AS turn
        FROM (
            SELECT source, split, count(*) AS num_images, min_by(
                {{'sample_id': sample_id, 'filename': filename}}, md5_number_lower(sample_id), {_GALLERY_IMAGES}
            ) AS chosen
            FROM pairs GROUP BY ALL ORDER BY num_images DESC, source, split LIMIT {_GALLERY_GROUPS}
        )
    ) ORDER BY turn, num_images DESC, source, split LIMIT {_GALLERY_IMAGES}
"""

PLACES = "SELECT sample_id, filename FROM pairs WHERE sample_id IN (SELECT unnest($sample_ids))"

PICTURES = """
    SELECT sample_id, source, split, image.bytes AS data, url, page_url, license, attribution, captions
    FROM read_parquet($files, hive_partitioning = false) WHERE sample_id IN (SELECT unnest($sample_ids))
    ORDER BY source, split, sample_id
"""

# The detail names the other image: "same as mscoco:18472" or "looks like wit:91262 of val".
DUPLICATE_EXAMPLES = f"""
    SELECT reason, min_by({{'gone': gone, 'stays': stays}}, md5_number_lower(gone), {_MAX_DUPLICATES}) AS examples
    FROM (
        SELECT DISTINCT drop_reason AS reason, sample_id AS gone,
               regexp_extract(detail, '^(?:same as|looks like) (\\S+)', 1) AS stays
        FROM captions WHERE step = 'deduplicate'
        UNION ALL
        SELECT DISTINCT 'merged', sample_id, merged_into FROM captions WHERE merged_into IS NOT NULL
    ) WHERE stays <> '' GROUP BY ALL ORDER BY reason
"""

_MAX_JUDGED = 6  # captions at each end of the scores

# Kept captions at one end of what a model found of them.
JUDGED = f"""
    SELECT coalesce(merged_into, sample_id) AS shown, clean_caption AS source_caption, source_lang, caption,
           target_lang, image_text_score AS score, image_text_drop AS loss
    FROM captions WHERE outcome = 'kept' AND {{column}} IS NOT NULL
    ORDER BY {{column}} {{order}}, caption_id LIMIT {_MAX_JUDGED}
"""
# Lists of the section on fit: column and order.
_ENDS = {
    "worst": ("image_text_score", "ASC"),
    "best": ("image_text_score", "DESC"),
    "lost": ("image_text_drop", "DESC"),
}

# How many captions were judged, and percentiles 5, 50 and 95 of their scores and differences.
FIT = """
    SELECT count(image_text_score) AS num_judged, count(*) FILTER (step = 'fit') AS num_dropped,
           quantile_cont(image_text_score, [0.05, 0.5, 0.95]) AS scores,
           quantile_cont(image_text_drop, [0.05, 0.5, 0.95]) AS drops
    FROM captions
"""

THUMBNAILS = "SELECT sample_id, thumbnail FROM image_outcomes WHERE sample_id IN (SELECT unnest($sample_ids))"


def downloads_of(snapshot: Snapshot) -> Diagnosis:
    """Return the outcomes of a snapshot's images that were requested from the web."""
    with snapshot_queries(snapshot) as table:
        return diagnose(table(ASKED), *_notes(snapshot))


def _notes(snapshot: Snapshot) -> list[str]:
    return [IMG2DATASET_LIMITS] if snapshot.manifest["settings"].get("fetch", {}).get("engine") == IMG2DATASET else []


def gather(snapshot: Snapshot, runs: Sequence[Mapping[str, Any]], *, num_examples: int) -> dict[str, Any]:
    """Return the contents of the report on a snapshot, by the names that the templates use.

    Args:
        snapshot: of any size: the queries aggregate or sample while they read, so that memory stays bounded.
        runs: lines of the dataset's run log.
        num_examples: captions shown for each reason, and translations for each part of an engine's scores.
    """
    manifest = snapshot.manifest
    # Runs that did steps and ended with this snapshot, the latest first.
    ours = [run for run in reversed(runs) if run.get("snapshot") == snapshot.snapshot and run.get("num_steps")]
    with snapshot_queries(snapshot) as table:

        def query(sql: str, **parameters: Any) -> Rows:
            found: Rows = table(sql, **parameters).to_pylist()
            return found

        answers = {name: query(sql) for name, sql in QUERIES.items()}
        for row in answers["lost_images"] + answers["duplicates"]:
            row["meaning"] = _MERGED if row["step"] is None else snapshot.meaning(row["step"], row["drop_reason"])
        engines = _engines(query, num_examples)
        return {
            **answers,
            **_funnel(manifest),
            **_sources(manifest, answers["published"]),
            **_making(manifest, ours),
            "warnings": heavy_losses(manifest),
            "reasons": _reasons(query, snapshot, num_examples),
            "engines": engines,
            "has_translations": any(row["origin"] != NATIVE for row in engines),
            "scores": _scores(query, engines),
            "gallery": _pictures(query, query(CHOSEN)),
            "fit": _fit(query, snapshot),
            "diagnosis": diagnose(table(ASKED), *_notes(snapshot)),
            "duplicate_examples": _duplicate_examples(query),
            "ablations": ablations_of(snapshot),
        }


def _funnel(manifest: Manifest) -> dict[str, Any]:
    """Return the rows of the funnel by source, and for all sources together, in the order of the steps."""
    funnel: dict[str, list[FunnelCount]] = {
        source: [] for source in sorted({row["source"] for row in manifest["funnel"]})
    }
    total: dict[str, Counter[str]] = {}
    for row in sorted(manifest["funnel"], key=itemgetter("step_number")):
        funnel[row["source"]].append(row)
        total.setdefault(row["step"], Counter()).update(read=row["read"], kept=row["kept"], dropped=row["dropped"])
    rows = list(total.values())
    read, kept = (rows[0]["read"], rows[-1]["kept"]) if rows else (0, 0)
    return {"funnel": funnel, "steps": list(total), "total": rows, "num_read": read, "num_captions": kept}


def _sources(manifest: Manifest, published: Rows) -> dict[str, Any]:
    """Return the number of published images, the splits that have any, and licenses and unselected rows by source."""
    *rows, total = published
    num_images = {row["source"]: row["num_images"] for row in rows}
    sources = sorted(manifest["sources"].items())
    return {
        "num_images": total["num_images"],
        "split_columns": [(split, split) for split in (*SPLITS, MARKED) if total[split]],
        "sources": [
            {"source": name, "license": entry["license"], "num_images": num_images.get(name, 0)}
            for name, entry in sources
        ],
        "unselected": [
            {"source": name, "num_rows": count, "why": _unselected(why)}
            for name, entry in sources
            for why, count in sorted(entry["unselected"].items())
            if count
        ],
    }


def _unselected(why: str) -> str:
    return "beyond its limit" if why == "limit" else f"of another {why.replace('_', ' ')}"


def _making(manifest: Manifest, runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the runs, the time of the latest one by step, the files read and written, and the settings by section."""
    times = runs[0].get("seconds_by_step") or {} if runs else {}
    upstream: Rows = []
    for source, entry in sorted(manifest["sources"].items()):
        rows = [{"source": source, "name": each["name"], "sha256": each["sha256"]} for each in entry["files"]]
        more = len(rows) - _MAX_FILES
        upstream += rows[:_MAX_FILES]
        upstream += [{"source": source, "name": f"and {more:,} more", "sha256": None}] if more > 0 else []
    files: dict[str, Counter[str]] = {}
    for kind, entries in sorted(manifest["files"].items()):
        for file in entries:
            name = f"{kind}, {file['split']}" if "split" in file else kind
            files.setdefault(name, Counter()).update(files=1, rows=file["rows"], bytes=file["bytes"])
    for document in manifest["documents"]:
        files.setdefault("documents", Counter()).update(files=1, rows=0, bytes=document["bytes"])
    settings = manifest["settings"]
    recipe = {name: value for name, value in settings.items() if not isinstance(value, Mapping)}
    sections = sorted((name, value) for name, value in settings.items() if isinstance(value, Mapping))
    return {
        "runs": runs,
        "step_times": [
            {"step": step, "seconds": times[step]} for step in sorted(times, key=lambda step: (-times[step], step))
        ],
        "files": [{"what": name, **count} for name, count in files.items()],
        "upstream_files": upstream,
        "settings_sections": [("recipe", recipe), *sections],
    }


def _reasons(query: Query, snapshot: Snapshot, num_examples: int) -> Rows:
    """Return the drop reasons in the order of the steps, the most frequent of each step first, with examples."""
    groups: dict[tuple[str, str], Rows] = {}
    for row in query(REASONS.format(num_examples=max(1, num_examples))):
        groups.setdefault((row["step"], row["drop_reason"]), []).append(row)
    found = []
    for (step, reason), rows in groups.items():
        # One example of each source in turn, so that all sources are shown.
        turns = chain.from_iterable(zip_longest(*(row["examples"] for row in rows)))
        found.append(
            {
                "step": step,
                "reason": reason,
                "meaning": snapshot.meaning(step, reason),
                "decided_by": deciding_settings_text(snapshot.decided_by(step, reason)),
                "num_rows": sum(row["dropped"] for row in rows),
                "by_source": {row["source"]: row["dropped"] for row in rows},
                "examples": [example for example in turns if example is not None][:num_examples],
            }
        )
    place = {step: number for number, step in enumerate(snapshot.steps)}
    return sorted(found, key=lambda row: (place.get(row["step"], len(place)), -row["num_rows"], row["reason"]))


def _engines(query: Query, num_examples: int) -> Rows:
    """Return counts and scores by translator, with samples; captions that needed no translation are under `native`."""
    found = query(ENGINES)
    sampled = _top_engines([row for row in found if row["has_original"]])
    for row in found:
        group = {name: row[name] for name in ("translator", "origin", "source_lang")}
        has_samples = num_examples and row["has_original"] and row["translator"] in sampled
        sql = TRANSLATIONS.format(num_examples=num_examples)
        row["samples"] = query(sql, cuts=row["cuts"] or [], **group) if has_samples else []
        is_native = row["origin"] == NATIVE
        row |= {"name": "none needed" if is_native else row["translator"] or "unknown", "made": ORIGINS[row["origin"]]}
        if not row["has_original"]:  # nothing to compare with
            row |= dict.fromkeys(("source_lang", *_COMPARED))
    return found


def _top_engines(engines: Rows) -> list[str]:
    return list(dict.fromkeys(row["translator"] for row in engines))[:_MAX_ENGINES]


def _scores(query: Query, engines: Rows) -> dict[str, Any] | None:
    """Return numbers of captions by engine and bin of translation scores; None if no engine gives scores.

    The lower edge of the first bin is `low`. The few captions with lower scores are in this bin, too.
    """
    scored = [row for row in engines if row["ends"]]
    if not scored:
        return None
    low, high = min(row["ends"][0] for row in scored), max(row["ends"][1] for row in scored)
    bins = {"low": low, "width": max((high - low) / _SCORE_BINS, _LEAST_BIN)}
    counts = {name: query(SCORES, translator=name, last=_SCORE_BINS - 1, **bins) for name in _top_engines(scored)}
    return {
        **bins,
        "counts": {name: {row["bin"]: row["num_captions"] for row in rows} for name, rows in counts.items()},
    }


def _duplicate_examples(query: Query) -> Rows:
    """Return examples of dropped or merged duplicates, each with the image that it duplicates."""
    rows = [{"reason": row["reason"], **example} for row in query(DUPLICATE_EXAMPLES) for example in row["examples"]]
    if not rows:
        return []
    names = sorted({name for row in rows for name in (row["gone"], row["stays"])})
    shown = {row["sample_id"]: _enlarged_thumbnail(row["thumbnail"]) for row in query(THUMBNAILS, sample_ids=names)}
    published = {row["sample_id"]: row["thumbnail"] for row in _pictures(query, query(PLACES, sample_ids=names))}
    shown |= {name: picture for name, picture in published.items() if picture is not None}
    return [{**row, **{f"{side}_thumbnail": shown.get(row[side]) for side in ("gone", "stays")}} for row in rows]


def _fit(query: Query, snapshot: Snapshot) -> dict[str, Any] | None:
    """Return how well captions fit their images, with the best and worst; None if the build did not judge them."""
    if "fit" not in snapshot.steps:
        return None
    ends = {name: query(JUDGED.format(column=column, order=order)) for name, (column, order) in _ENDS.items()}
    names = sorted({row["shown"] for rows in ends.values() for row in rows})
    pictures = {row["sample_id"]: row["thumbnail"] for row in _pictures(query, query(PLACES, sample_ids=names))}
    shown = {name: [{**row, "thumbnail": pictures.get(row["shown"])} for row in rows] for name, rows in ends.items()}
    found = query(FIT)[0]
    kinds = (("Score", found["scores"]), ("Lost by translation", found["drops"]))
    percentiles = [{"what": what, **dict(zip(_PERCENTILES, values, strict=True))} for what, values in kinds if values]
    return {**found, **shown, "percentiles": percentiles}


def _pictures(query: Query, places: Rows) -> Rows:
    """Return pairs with their thumbnails; `places` are their `sample_id` and `filename`."""
    if not places:
        return []
    files = sorted({row["filename"] for row in places})
    found = query(PICTURES, files=files, sample_ids=[row["sample_id"] for row in places])
    return [{**row, "thumbnail": _thumbnail(row.pop("data"))} for row in found]


def _thumbnail(data: bytes | None) -> dict[str, Any] | None:
    """Return a published image, at most `_SIDE` pixels wide and high; None if it cannot be decoded."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data or b""), formats=_FORMATS) as image:
            image.thumbnail((_SIDE, _SIDE))
            return _encoded(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):  # Pillow's errors for broken files
        return None


def _enlarged_thumbnail(pixels: bytes | None) -> dict[str, Any] | None:
    """Return an enlarged picture of an image's thumbnail of 8 x 8 pixels; None if there is none."""
    from PIL import Image

    if pixels is None or len(pixels) != 192:
        return None
    small = Image.frombytes("RGB", (8, 8), pixels)
    return _encoded(small.resize((_SIDE // 2, _SIDE // 2), Image.Resampling.BICUBIC))


def _encoded(image: "Image") -> dict[str, Any]:
    """Return a picture as a `data:` URL, and its size in pixels."""
    file = io.BytesIO()
    image.save(file, format="WEBP", quality=_QUALITY, method=4)
    address = f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode('ascii')}"
    return {"address": address, "width": image.width, "height": image.height}

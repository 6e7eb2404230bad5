"""Arrow schemas of the files in a catalog, and descriptions of the published columns.

A *sample* is one image with all its captions. A *caption row* is the unit of accounting: one row per selected upstream
row, from ingest to the published snapshot. A row starts as `pending` and ends as `kept` or `rejected`.
"""

from collections.abc import Iterable, Mapping

import pyarrow as pa

PENDING, KEPT, REJECTED = "pending", "kept", "rejected"

# Value of `origin` and `translator` if upstream has the caption in the target language, so that nothing was translated.
NATIVE = "native"

_SAMPLE_ID = "identity of the image: its source and its key there, such as mscoco:391895"
_SOURCE = "name of the source in the recipe, such as wit or mscoco"
_URL = "address of the image, as upstream has it; either url or path is set, except in malformed rows"
_PATH = "name of the image inside the source's folder or archive of images"
_LICENSE = "the image's license, as upstream states it; null: it states none"
_ATTRIBUTION = "the credit for the image, as upstream states it"
_PAGE_URL = "the page that shows the image, according to upstream"
_PUBLISHED = "in pixels, of the published image"
_AS_IT_CAME = "in pixels, of the image before normalisation"
_SHA256 = "sha256 of the image's bytes before normalisation, hexadecimal"
_PHASH = "perceptual hash of the picture, 16 hexadecimal digits"
_LEAKS = 'matches with test sets, if the recipe marks leaks instead of dropping them: "test_caption xtd10: ..."'

# Columns of caption rows that only a build with `[image_text]` has, in the files of its step `fit` and after it.
SCORE, SCORE_SOURCE, SCORE_DROP = IMAGE_TEXT = ("image_text_score", "image_text_score_source", "image_text_drop")

CAPTION_COLUMNS: Mapping[str, str] = {
    "sample_id": _SAMPLE_ID,
    "caption_id": "identity of the row: its sample's and its key there, such as mscoco:391895#770337",
    "source": _SOURCE,
    "upstream_split": "split in the upstream dataset, if it has splits: train, val, test, or another name",
    "url": "address of the image, as upstream has it; with a path, it is where the image was, and is not asked",
    "path": "name of the image inside the source's folder, archive or files of images; null: it is fetched by url",
    "source_caption": "the caption as upstream has it, never altered",
    "source_lang": "language of source_caption, as upstream or the documentation of the source states it",
    "clean_caption": "the source caption after cleaning: the text that is translated",
    "detected_source_lang": "detected language of clean_caption, ISO 639-1; null: none detected, or not checked",
    "detected_source_probability": "probability of detected_source_lang, 0 to 1",
    "source_language_margin": "probability of source_lang minus that of the likeliest other language",
    "caption": "the text in the target language",
    "detected_lang": "detected language of the caption, ISO 639-1; null: none detected, or not checked",
    "detected_probability": "probability of detected_lang, 0 to 1",
    "target_lang": "language of the dataset",
    "origin": "native, human_translation, machine_translation, machine_translation_corrected; null: unknown, or none",
    "translator": "fingerprint of the engine that translated the caption, or upstream's name for it; native: none",
    "translation_score": "mean log-probability per token that the engine gave its translation; null: it gives none",
    "translation_truncated": "whether the engine's decoding reached its length limit",
    "translation_repetitive": "whether the translation repeats itself, in the second try too",
    "length_ratio": "letters of the translation per letter of its source",
    "copied_share": "share of the translation's words that are in its source unchanged",
    "repeated_ngrams": "how many times in a row the translation's most repeated n-gram occurs",
    "numbers_lost": "numbers of the source that are missing in the translation",
    "numbers_invented": "numbers of the translation that are missing in its source",
    "language_margin": "probability of target_lang minus that of the likeliest other language",
    "round_trip_chrf": "chrF of the round trip (the translation translated back) against the source, 0 to 100",
    "license": _LICENSE,
    "attribution": _ATTRIBUTION,
    "page_url": _PAGE_URL,
    "leaks": _LEAKS,
    "merged_into": "the sample whose image the caption is published with, if not its own; in older snapshots",
    "upstream_file": "the file that contains the row, relative to the common folder of its source's files",
    "upstream_line": "line of the row in upstream_file, from 1; in JSON and Parquet, the number of the record",
    "outcome": "kept or rejected",
    "step": "the step that rejected the row; null: it is kept",
    "drop_reason": "drop reason, one word of a closed list (docs/captions.md, docs/images.md)",
    "detail": "details of the drop reason, such as the lost number or the image that this one duplicates",
    SCORE: "how well the caption fits its image: standard deviations above random captions; null: not judged",
    SCORE_SOURCE: "the same of clean_caption, in the source language; null: not judged",
    SCORE_DROP: "image_text_score_source - image_text_score: how much of the image the translation lost",
}

# The outcome of every image of the selected rows: one row per sample, published with the snapshot, without pixels.
OUTCOME_COLUMNS: Mapping[str, str] = {
    "sample_id": _SAMPLE_ID,
    "source": _SOURCE,
    "url": _URL,
    "path": _PATH,
    "step": "the step that rejected the image, fetch or normalise; null: the image is good",
    "drop_reason": "drop reason (docs/images.md); null: the image is good",
    "detail": "details of the drop reason",
    "http_status": "HTTP status of the last answer; null: no answer, or a local file",
    "final_url": "the address after redirects; the thumbnail's, if a thumbnail was fetched",
    "robots_tag": 'the X-Robots-Tag and TDM-Reservation headers of the answer, joined by "; "',
    "content_usage": "Content-Usage statements: value as sent, where (header or robots.txt), draft used to parse it",
    "num_bytes": "bytes of the image before normalisation",
    "sha256": _SHA256,
    "original_format": "format of the image before normalisation: JPEG, PNG, ...",
    "original_width": _AS_IT_CAME,
    "original_height": _AS_IT_CAME,
    "width": _PUBLISHED,
    "height": _PUBLISHED,
    "phash": _PHASH,
    "thumbnail": "8 x 8 pixels of RGB, row by row: 192 bytes",
    "canonical_url": "the spelling under which the URL's outcome is recorded; null: the same as url",
    "attempt": "the dataset's attempt (--retry-failed) in which the image was fetched; 0: the first build",
}

# A published row: one image and parallel lists of its captions. `image` has Hugging Face's Image layout.
PAIR_COLUMNS: Mapping[str, str] = {
    "sample_id": _SAMPLE_ID,
    "source": _SOURCE,
    "split": "train, val or test; marked: it matches a test set, and is in no split",
    "image": "the picture, {bytes, path}: the layout of Hugging Face's Image feature; path is null",
    "width": _PUBLISHED,
    "height": _PUBLISHED,
    "original_width": _AS_IT_CAME,
    "original_height": _AS_IT_CAME,
    "sha256": _SHA256,
    "phash": _PHASH,
    "original": "the image's bytes before normalisation, if the recipe keeps them, with camera, place and author",
    "url": "address of the image, as upstream has it; null for local images",
    "license": _LICENSE,
    "attribution": _ATTRIBUTION,
    "page_url": _PAGE_URL,
    "caption_ids": "ids of its captions, the sample's own first; this and the other lists have one item per caption",
    "captions": "the texts in the target language",
    "source_captions": "the captions as upstream has them",
    "source_langs": "the languages of source_captions",
    "translators": "fingerprints of the engines that translated them, or upstream's names; native: none",
    "scores": "mean log-probabilities per token that the engines gave their translations",
    "leaks": _LEAKS,
    "origins": "who wrote the texts, with the values of origin in captions",
    "image_text_scores": "how well the texts fit the image (image_text_score in captions); null: not judged",
}

# The raw Content-Usage statements of an answer and its host's robots.txt; null if there are none. They have no time, so
# that a resumed build writes the same bytes: the fetch log has it. `where` is "header" or "robots.txt", `draft` the one
# that was used to parse the statement.
_USAGE = pa.list_(pa.struct([pa.field(name, pa.string()) for name in ("value", "where", "draft")]))
# Types of columns by name; all other columns are texts.
_SIZES = ("width", "height", "original_width", "original_height")
_MEASURES = (
    *("detected_source_probability", "source_language_margin", "detected_probability", "translation_score"),
    *("length_ratio", "copied_share", "language_margin", "round_trip_chrf", *IMAGE_TEXT),
)
_LISTS = ("caption_ids", "captions", "source_captions", "source_langs", "translators", "origins")
_TYPES = {
    **dict.fromkeys((*_SIZES, "repeated_ngrams", "http_status", "attempt"), pa.int32()),
    **dict.fromkeys(("upstream_line", "num_bytes"), pa.int64()),
    **dict.fromkeys(("translation_truncated", "translation_repetitive"), pa.bool_()),
    **dict.fromkeys(_MEASURES, pa.float32()),
    **dict.fromkeys((*_LISTS, "numbers_lost", "numbers_invented", "leaks"), pa.list_(pa.string())),
    **dict.fromkeys(("bytes", "thumbnail", "original"), pa.binary()),
    "content_usage": _USAGE,
    "image": pa.struct([pa.field("bytes", pa.binary()), pa.field("path", pa.string())]),
    **dict.fromkeys(("scores", "image_text_scores"), pa.list_(pa.float32())),
}


def _schema(names: Iterable[str], *, never_null: Iterable[str]) -> pa.Schema:
    return pa.schema([pa.field(name, _TYPES.get(name, pa.string()), nullable=name not in never_null) for name in names])


SCORED_CAPTIONS = _schema(
    CAPTION_COLUMNS, never_null=("sample_id", "caption_id", "source", "upstream_file", "upstream_line", "outcome")
)
CAPTIONS = pa.schema([field for field in SCORED_CAPTIONS if field.name not in IMAGE_TEXT])
# Output of fetching: one row per requested sample, in order. `drop_reason` is null if bytes came. `url` is canonical;
# null for local images and invalid URLs.
RAW_IMAGES = _schema(
    (
        *("sample_id", "drop_reason", "detail", "http_status", "final_url", "robots_tag", "content_usage", "num_bytes"),
        *("sha256", "url", "attempt", "bytes"),
    ),
    never_null=("sample_id",),
)
# Output of normalising: one row per raw row, in the same order. `bytes` are JPEG, WebP or PNG, RGB, upright. `original`
# has the bytes before normalisation, if the recipe keeps them. The last columns are copied from the raw row.
IMAGES = _schema(
    (
        *("sample_id", "drop_reason", "detail", "bytes", *_SIZES, "original_format", "sha256", "phash", "thumbnail"),
        *("original", "http_status", "final_url", "robots_tag", "content_usage", "num_bytes", "url", "attempt"),
    ),
    never_null=("sample_id",),
)
OUTCOMES = _schema(OUTCOME_COLUMNS, never_null=("sample_id", "source"))
SCORED_PAIRS = _schema(
    PAIR_COLUMNS,
    never_null=(
        *("sample_id", "source", "split", "image", *_SIZES, "sha256", "scores"),
        *("caption_ids", "captions", "source_captions", "source_langs", "translators"),
    ),
)
PAIRS = pa.schema([field for field in SCORED_PAIRS if field.name != "image_text_scores"])


def parallel_lists(pairs: pa.Schema) -> list[str]:
    """Return the list columns of pairs that have one item for each caption."""
    return [field.name for field in pairs if pa.types.is_list(field.type) and field.name != "leaks"]

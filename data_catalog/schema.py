"""Arrow schemas of everything that lies in a catalog, their versions, and what each published column means.

A *sample* is one image with all its captions; a *caption row* is the unit of accounting: one row per selected
upstream row, from ingest to the published snapshot. A row starts as `pending` and ends as `kept` or `rejected`.
"""

from collections.abc import Iterable, Mapping

import pyarrow as pa

CAPTIONS_VERSION = 4
PAIRS_VERSION = 4
OUTCOMES_VERSION = 4

PENDING, KEPT, REJECTED = "pending", "kept", "rejected"

# Value of `origin`, and of `translator`, where nobody translated: upstream has the caption in the target language.
NATIVE = "native"

_SAMPLE_ID = "identity of the image: its source and its key there, such as mscoco:391895"
_SOURCE = "name of the source in the recipe, such as wit or mscoco"
_URL = "address of the image, as upstream has it; of url and path one is set, malformed rows aside"
_PATH = "name of the image inside the source's folder or archive of images"
_LICENSE = "the image's license, as upstream states it; null: it states none"
_ATTRIBUTION = "whom to credit for the image, as upstream states it"
_PAGE_URL = "the page that upstream says the image stands on"
_PUBLISHED = "of the published pixels"
_AS_IT_CAME = "in pixels, as the image came"
_SHA256 = "of the image's bytes as they came, hexadecimal"
_PHASH = "perceptual hash of the picture, 16 hexadecimal digits"
_LEAKS = 'what of test sets it holds, where the recipe marks it rather than drops it: "test_caption xtd10: ..."'

CAPTION_COLUMNS: Mapping[str, str] = {
    "sample_id": _SAMPLE_ID,
    "caption_id": "identity of the row: its sample's and its key there, such as mscoco:391895#770337",
    "source": _SOURCE,
    "upstream_split": "split in the upstream dataset, if it has splits: train, val, test, or another name of its own",
    "url": _URL,
    "path": _PATH,
    "source_caption": "the caption as upstream has it, never altered",
    "source_lang": "its language as upstream says, or as the source documents it",
    "clean_caption": "the source caption after cleaning: what is translated",
    "detected_source_lang": "language that clean_caption is found to be in, ISO 639-1; null: none found or asked for",
    "detected_source_probability": "probability of detected_source_lang, 0 to 1",
    "source_language_margin": "probability of source_lang less that of the likeliest other language",
    "caption": "the text in the target language",
    "detected_lang": "language that the caption is found to be in, ISO 639-1; null: none found or asked for",
    "detected_probability": "probability of detected_lang, 0 to 1",
    "target_lang": "language of the dataset",
    "origin": "native, human_translation, machine_translation, machine_translation_corrected; null: unknown, or none",
    "translator": "fingerprint of the engine that translated the caption, or whom upstream names; native: nobody did",
    "translation_score": "mean log-probability per token that the engine gave its translation; null: it tells none",
    "translation_truncated": "whether the engine's decoding hit its limit of length",
    "translation_repetitive": "whether the translation looped, at the second try as well",
    "length_ratio": "letters of the translation per letter of its source",
    "copied_share": "share of the translation's words that stand in its source as they are",
    "repeated_ngrams": "how often the translation's most repeated n-gram stands back to back",
    "numbers_lost": "numbers of the source that the translation lacks",
    "numbers_invented": "numbers of the translation that its source lacks",
    "language_margin": "probability of target_lang less that of the likeliest other language",
    "round_trip_chrf": "chrF, 0 to 100, of the translation's translation back against the source",
    "license": _LICENSE,
    "attribution": _ATTRIBUTION,
    "page_url": _PAGE_URL,
    "leaks": _LEAKS,
    "merged_into": "the sample whose image the caption is published with, if not its own",
    "upstream_file": "the file that the row stands in, below the common folder of its source's files",
    "upstream_line": "its line there, from 1, or the number of its record in JSON and Parquet",
    "outcome": "kept or rejected",
    "step": "the step that rejected the row; null: it is kept",
    "drop_reason": "why, one word of a closed list (docs/captions.md, docs/images.md)",
    "detail": "what in particular, such as the number that was lost or the image that it repeats",
}

# What became of every image that was asked for: one row per sample, published with the snapshot, without pixels.
OUTCOME_COLUMNS: Mapping[str, str] = {
    "sample_id": _SAMPLE_ID,
    "source": _SOURCE,
    "url": _URL,
    "path": _PATH,
    "step": "fetch or normalise, where the image was lost; null: it is good",
    "drop_reason": "why it was lost (docs/images.md); null: it is good",
    "detail": "what in particular",
    "http_status": "of the last answer; null where none came, and for local files",
    "final_url": "the address after redirects, and of the thumbnail where one was asked for",
    "robots_tag": 'the X-Robots-Tag and TDM-Reservation headers of the answer, joined by "; "',
    "content_usage": "what Content-Usage says: value as sent, where (header or robots.txt), draft that it was read by",
    "num_bytes": "of the image as it came",
    "sha256": _SHA256,
    "original_format": "of the bytes as they came: JPEG, PNG, ...",
    "original_width": _AS_IT_CAME,
    "original_height": _AS_IT_CAME,
    "width": _PUBLISHED,
    "height": _PUBLISHED,
    "phash": _PHASH,
    "thumbnail": "8 x 8 pixels of RGB, row by row: 192 bytes",
    "canonical_url": "the spelling under which the URL's outcome is known; null: it is `url`",
    "attempt": "the dataset's attempt (--retry-failed) in which the image was asked for; 0: the first build",
}

# A published row: one image, parallel lists of captions. `image` is the Hugging Face Image layout.
PAIR_COLUMNS: Mapping[str, str] = {
    "sample_id": _SAMPLE_ID,
    "source": _SOURCE,
    "split": "train, val or test; marked: it holds something of a test set, and is in no split",
    "image": "the picture: {bytes, path}, as Hugging Face's Image feature has it; path is null",
    "width": _PUBLISHED,
    "height": _PUBLISHED,
    "original_width": _AS_IT_CAME,
    "original_height": _AS_IT_CAME,
    "sha256": _SHA256,
    "phash": _PHASH,
    "original": "the image's bytes as they came, where the recipe keeps them",
    "url": "address of the image, as upstream has it; null for local images",
    "license": _LICENSE,
    "attribution": _ATTRIBUTION,
    "page_url": _PAGE_URL,
    "caption_ids": "of its captions, the sample's own first: one item a caption in this and the following lists",
    "captions": "the texts in the target language",
    "source_captions": "the captions as upstream has them",
    "source_langs": "the languages of those",
    "translators": "fingerprints of the engines that translated them, or whom upstream names; native: nobody did",
    "scores": "what the engines gave their translations: mean log-probability per token",
    "leaks": _LEAKS,
    "origins": "who made the texts, as origin in captions",
}

# What the Content-Usage of an answer and of its host's robots.txt say, raw; null where neither says anything. It has
# no time, so that a resumed build writes the same bytes: the fetch log has it. `where` is "header" or "robots.txt",
# `draft` the one that it was read by.
_USAGE = pa.list_(pa.struct([pa.field(name, pa.string()) for name in ("value", "where", "draft")]))
# Types of columns, by name; all others are texts.
_SIZES = ("width", "height", "original_width", "original_height")
_MEASURES = (
    *("detected_source_probability", "source_language_margin", "detected_probability", "translation_score"),
    *("length_ratio", "copied_share", "language_margin", "round_trip_chrf"),
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
    "scores": pa.list_(pa.float32()),
}


def _schema(names: Iterable[str], *, never_null: Iterable[str]) -> pa.Schema:
    return pa.schema([pa.field(name, _TYPES.get(name, pa.string()), nullable=name not in never_null) for name in names])


CAPTIONS = _schema(
    CAPTION_COLUMNS, never_null=("sample_id", "caption_id", "source", "upstream_file", "upstream_line", "outcome")
)
# What fetching brings: one row per sample asked for, in the order asked. `drop_reason` is null where bytes came, `url`
# the canonical one; null of local images, and where it cannot be asked for.
RAW_IMAGES = _schema(
    (
        *("sample_id", "drop_reason", "detail", "http_status", "final_url", "robots_tag", "content_usage", "num_bytes"),
        *("sha256", "url", "attempt", "bytes"),
    ),
    never_null=("sample_id",),
)
# What normalising makes of it: one row per raw row, in the same order. `bytes` are JPEG, WebP or PNG, RGB, upright;
# `original` the bytes as they came, where the recipe keeps them. The last columns are as fetching found them.
IMAGES = _schema(
    (
        *("sample_id", "drop_reason", "detail", "bytes", *_SIZES, "original_format", "sha256", "phash", "thumbnail"),
        *("original", "http_status", "final_url", "robots_tag", "content_usage", "num_bytes", "url", "attempt"),
    ),
    never_null=("sample_id",),
)
# What became of every image that was asked for: one row per sample, published with the snapshot, without pixels.
OUTCOMES = _schema(OUTCOME_COLUMNS, never_null=("sample_id", "source"))
# A published row: one image, parallel lists of captions. `image` is the Hugging Face Image layout.
PAIRS = _schema(
    PAIR_COLUMNS,
    never_null=(
        *("sample_id", "source", "split", "image", *_SIZES, "sha256", "scores"),
        *("caption_ids", "captions", "source_captions", "source_langs", "translators"),
    ),
)

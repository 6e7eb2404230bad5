"""Arrow schemas of everything that lies in a catalog, and their versions.

A *sample* is one image with all its captions; a *caption row* is the unit of accounting: one row per selected
upstream row, from ingest to the published snapshot. A row starts as `pending` and ends as `kept` or `rejected`. What
each published column means stands in `column_docs.py`.
"""

import pyarrow as pa

CAPTIONS_VERSION = 4
PAIRS_VERSION = 4
OUTCOMES_VERSION = 4

PENDING, KEPT, REJECTED = "pending", "kept", "rejected"

# Value of `origin`, and of `translator`, where nobody translated: upstream has the caption in the target language.
NATIVE = "native"

CAPTIONS = pa.schema(
    [
        pa.field("sample_id", pa.string(), nullable=False),
        pa.field("caption_id", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("upstream_split", pa.string()),
        pa.field("url", pa.string()),
        pa.field("path", pa.string()),
        pa.field("source_caption", pa.string()),
        pa.field("source_lang", pa.string()),
        pa.field("clean_caption", pa.string()),
        pa.field("detected_source_lang", pa.string()),
        pa.field("detected_source_probability", pa.float32()),
        pa.field("source_language_margin", pa.float32()),
        pa.field("caption", pa.string()),
        pa.field("detected_lang", pa.string()),
        pa.field("detected_probability", pa.float32()),
        pa.field("target_lang", pa.string()),
        pa.field("origin", pa.string()),
        pa.field("translator", pa.string()),
        pa.field("translation_score", pa.float32()),
        pa.field("translation_truncated", pa.bool_()),
        pa.field("translation_repetitive", pa.bool_()),
        pa.field("length_ratio", pa.float32()),
        pa.field("copied_share", pa.float32()),
        pa.field("repeated_ngrams", pa.int32()),
        pa.field("numbers_lost", pa.list_(pa.string())),
        pa.field("numbers_invented", pa.list_(pa.string())),
        pa.field("language_margin", pa.float32()),
        pa.field("round_trip_chrf", pa.float32()),
        pa.field("license", pa.string()),
        pa.field("attribution", pa.string()),
        pa.field("page_url", pa.string()),
        pa.field("leaks", pa.list_(pa.string())),
        pa.field("merged_into", pa.string()),
        pa.field("upstream_file", pa.string(), nullable=False),
        pa.field("upstream_line", pa.int64(), nullable=False),
        pa.field("outcome", pa.string(), nullable=False),
        pa.field("step", pa.string()),
        pa.field("drop_reason", pa.string()),
        pa.field("detail", pa.string()),
    ]
)


# What the Content-Usage of an answer and of its host's robots.txt say, raw; null where neither says anything. It has
# no time, so that a resumed build writes the same bytes: the fetch log has it.
CONTENT_USAGE = pa.field(
    "content_usage",
    pa.list_(
        pa.struct(
            [
                pa.field("value", pa.string()),
                pa.field("where", pa.string()),  # "header" or "robots.txt"
                pa.field("draft", pa.string()),  # by which it was read
            ]
        )
    ),
)

# What fetching brings: one row per sample asked for, in the order asked.
RAW_IMAGES = pa.schema(
    [
        pa.field("sample_id", pa.string(), nullable=False),
        pa.field("drop_reason", pa.string()),  # null: bytes came
        pa.field("detail", pa.string()),
        pa.field("http_status", pa.int32()),
        pa.field("final_url", pa.string()),  # after redirects, and of the thumbnail where one was asked for
        pa.field("robots_tag", pa.string()),  # X-Robots-Tag and TDM-Reservation, joined by "; "
        CONTENT_USAGE,
        pa.field("num_bytes", pa.int64()),  # of what came
        pa.field("sha256", pa.string()),  # of the bytes as they came, hexadecimal
        pa.field("url", pa.string()),  # canonical; null of local images, and where it cannot be asked for
        pa.field("attempt", pa.int32()),  # of the dataset, in which the URL was asked for
        pa.field("bytes", pa.binary()),
    ]
)

# What normalising makes of it: one row per raw row, in the same order.
IMAGES = pa.schema(
    [
        pa.field("sample_id", pa.string(), nullable=False),
        pa.field("drop_reason", pa.string()),  # null: the image is good
        pa.field("detail", pa.string()),
        pa.field("bytes", pa.binary()),  # JPEG, WebP or PNG, RGB, upright
        pa.field("width", pa.int32()),
        pa.field("height", pa.int32()),
        pa.field("original_width", pa.int32()),
        pa.field("original_height", pa.int32()),
        pa.field("original_format", pa.string()),  # of the bytes as they came: JPEG, PNG, ...
        pa.field("sha256", pa.string()),  # of the bytes as they came (not of `bytes`)
        pa.field("phash", pa.string()),  # perceptual hash of the picture, 16 hexadecimal digits
        pa.field("thumbnail", pa.binary()),  # 8 x 8 pixels of RGB, row by row: 192 bytes
        pa.field("original", pa.binary()),  # the bytes as they came, where the recipe keeps them
        # As fetching found them.
        pa.field("http_status", pa.int32()),
        pa.field("final_url", pa.string()),
        pa.field("robots_tag", pa.string()),
        CONTENT_USAGE,
        pa.field("num_bytes", pa.int64()),
        pa.field("url", pa.string()),
        pa.field("attempt", pa.int32()),
    ]
)

# What became of every image that was asked for: one row per sample, published with the snapshot, without pixels.
OUTCOMES = pa.schema(
    [
        pa.field("sample_id", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("url", pa.string()),
        pa.field("path", pa.string()),
        pa.field("step", pa.string()),
        pa.field("drop_reason", pa.string()),
        pa.field("detail", pa.string()),
        pa.field("http_status", pa.int32()),
        pa.field("final_url", pa.string()),
        pa.field("robots_tag", pa.string()),
        CONTENT_USAGE,
        pa.field("num_bytes", pa.int64()),
        pa.field("sha256", pa.string()),
        pa.field("original_format", pa.string()),
        pa.field("original_width", pa.int32()),
        pa.field("original_height", pa.int32()),
        pa.field("width", pa.int32()),
        pa.field("height", pa.int32()),
        pa.field("phash", pa.string()),
        pa.field("thumbnail", pa.binary()),
        pa.field("canonical_url", pa.string()),  # under which the outcome is known; null where `url` is that
        pa.field("attempt", pa.int32()),
    ]
)

# A published row: one image, parallel lists of captions. `image` is the Hugging Face Image layout.
PAIRS = pa.schema(
    [
        pa.field("sample_id", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("image", pa.struct([pa.field("bytes", pa.binary()), pa.field("path", pa.string())]), nullable=False),
        pa.field("width", pa.int32(), nullable=False),
        pa.field("height", pa.int32(), nullable=False),
        pa.field("original_width", pa.int32(), nullable=False),
        pa.field("original_height", pa.int32(), nullable=False),
        pa.field("sha256", pa.string(), nullable=False),
        pa.field("phash", pa.string()),
        pa.field("original", pa.binary()),
        pa.field("url", pa.string()),
        pa.field("license", pa.string()),
        pa.field("attribution", pa.string()),
        pa.field("page_url", pa.string()),
        pa.field("caption_ids", pa.list_(pa.string()), nullable=False),
        pa.field("captions", pa.list_(pa.string()), nullable=False),
        pa.field("source_captions", pa.list_(pa.string()), nullable=False),
        pa.field("source_langs", pa.list_(pa.string()), nullable=False),
        pa.field("translators", pa.list_(pa.string()), nullable=False),
        pa.field("scores", pa.list_(pa.float32()), nullable=False),
        pa.field("leaks", pa.list_(pa.string())),
        pa.field("origins", pa.list_(pa.string())),
    ]
)

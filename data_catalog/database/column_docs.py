"""What every view of a catalog and every column in it means: told in the database itself, and in docs/catalog.md.

Other places name a column; what it means stands here alone.
"""

from collections.abc import Mapping

VIEWS: Mapping[str, str] = {
    "pairs": "one row per published image: its pixels and parallel lists of its captions; what training reads",
    "captions": "one row per selected upstream row: where it comes from, what was measured, kept or why not",
    "rejects": "the rows of captions that a step rejected",
    "image_outcomes": "one row per image that was asked for, as fetching and normalising found it, without pixels",
    "images": "one row per sample: what became of its image, and where and why it was lost",
    "funnel": "caption rows that each step read, kept and dropped, by source; read = kept + dropped",
    "drop_reasons": "how many caption rows each step dropped for which reason, by source",
    "leaks": "what of which test set was found among the captions and images of which source, and by what",
    "translators": "what each translator, ours or upstream's, did: how many captions, how sure, what was measured",
    "builds": "one row per dataset: what its newest snapshot holds, and the settings that made it",
}

_WHERE = {
    "dataset": "name of the dataset",
    "snapshot": "id of the dataset's newest snapshot",
}
_IDENTITY = {
    "sample_id": "identity of the image: its source and its key there, such as mscoco:391895",
    "source": "name of the source in the recipe, such as wit or mscoco",
}
_RIGHTS = {
    "license": "the image's license, as upstream states it; null: it states none",
    "attribution": "whom to credit for the image, as upstream states it",
    "page_url": "the page that upstream says the image stands on",
}
_SIZES = {
    "width": "of the published pixels",
    "height": "of the published pixels",
    "original_width": "in pixels, as the image came",
    "original_height": "in pixels, as the image came",
}
_HASHES = {
    "sha256": "of the image's bytes as they came, hexadecimal",
    "phash": "perceptual hash of the picture, 16 hexadecimal digits",
}
_ANSWER = {
    "http_status": "of the last answer; null where none came, and for local files",
    "final_url": "the address after redirects, and of the thumbnail where one was asked for",
    "robots_tag": 'the X-Robots-Tag and TDM-Reservation headers of the answer, joined by "; "',
    "content_usage": "what Content-Usage says: value as sent, where (header or robots.txt), draft that it was read by",
}
_PLACE = {
    "url": "address of the image, as upstream has it; of url and path one is set, malformed rows aside",
    "path": "name of the image inside the source's folder or archive of images",
}
_LEAKS = 'what of test sets it holds, where the recipe marks it rather than drops it: "test_caption xtd10: ..."'

CAPTION_COLUMNS: Mapping[str, str] = {
    **_IDENTITY,
    "caption_id": "identity of the row: its sample's and its key there, such as mscoco:391895#770337",
    "upstream_split": "split in the upstream dataset, if it has splits: train, val, test, or another name of its own",
    **_PLACE,
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
    **_RIGHTS,
    "leaks": _LEAKS,
    "merged_into": "the sample whose image the caption is published with, if not its own",
    "upstream_file": "the file that the row stands in, below the common folder of its source's files",
    "upstream_line": "its line there, from 1, or the number of its record in JSON and Parquet",
    "outcome": "kept or rejected",
    "step": "the step that rejected the row; null: it is kept",
    "drop_reason": "why, one word of a closed list (docs/cleaning.md, docs/images.md)",
    "detail": "what in particular, such as the number that was lost or the image that it repeats",
}

OUTCOME_COLUMNS: Mapping[str, str] = {
    **_IDENTITY,
    **_PLACE,
    "step": "fetch or normalise, where the image was lost; null: it is good",
    "drop_reason": "why it was lost (docs/images.md); null: it is good",
    "detail": "what in particular",
    **_ANSWER,
    "num_bytes": "of the image as it came",
    "original_format": "of the bytes as they came: JPEG, PNG, ...",
    **_HASHES,
    **_SIZES,
    "thumbnail": "8 x 8 pixels of RGB, row by row: 192 bytes",
    "canonical_url": "the spelling under which the URL's outcome is known; null: it is `url`",
    "attempt": "the dataset's attempt (--retry-failed) in which the image was asked for; 0: the first build",
}

PAIR_COLUMNS: Mapping[str, str] = {
    **_IDENTITY,
    "split": "train, val or test; marked: it holds something of a test set, and is in no split",
    "image": "the picture: {bytes, path}, as Hugging Face's Image feature has it; path is null",
    **_SIZES,
    **_HASHES,
    "original": "the image's bytes as they came, where the recipe keeps them",
    "url": "address of the image, as upstream has it; null for local images",
    **_RIGHTS,
    "caption_ids": "of its captions, the sample's own first: one item a caption in this and the following lists",
    "captions": "the texts in the target language",
    "source_captions": "the captions as upstream has them",
    "source_langs": "the languages of those",
    "translators": "fingerprints of the engines that translated them, or whom upstream names; native: nobody did",
    "origins": "who made the texts, as origin in captions",
    "scores": "what the engines gave their translations: mean log-probability per token",
    "leaks": _LEAKS,
}

_IMAGES = {
    **_IDENTITY,
    **_PLACE,
    "upstream_split": "split that upstream states of it, of several the last of train, val, test; null: none",
    "split": "of the published pair; null: the image is not published",
    **_SIZES,
    **_HASHES,
    "num_bytes": "of the published picture; null: it is not published",
    "num_captions": "caption rows of the sample",
    "num_kept": "those of them that are kept",
    "status": "published; merged: its captions are published with another sample's image; or dropped",
    "step": "the step at which a sample that is dropped was lost: the last that any of its captions came to",
    "drop_reason": "why it was lost there",
    "detail": "what in particular, where the image itself was lost",
    "asked_for": "whether any of its captions came as far as fetching",
    "retryable": "whether a later try may bring the image (vernaclip build --retry-failed)",
    **_ANSWER,
    "original_bytes": "of the image as it came",
    "original_format": "of the bytes as they came: JPEG, PNG, ...",
}

_FUNNEL = {
    "source": _IDENTITY["source"],
    "step_number": "place of the step in the order of the build",
    "step": "name of the step",
    "read": "caption rows that came to the step",
    "kept": "rows that it let pass",
    "dropped": "rows that it rejected",
}

_DROP_REASONS = {
    "source": _IDENTITY["source"],
    "step": "the step that rejected the rows",
    "drop_reason": "why, one word of a closed list (docs/cleaning.md, docs/images.md)",
    "dropped": "how many rows",
}

_LEAK_COUNTS = {
    "source": _IDENTITY["source"],
    "test_set": "name of the test set in the recipe",
    "reason": "test_image: by the image's identity; test_caption: by a caption; test_pixels: the image looks like one",
    "outcome": "rejected, or kept where the recipe marks leaks",
    "num_images": "samples concerned",
    "num_captions": "caption rows concerned",
}

_TRANSLATORS = {
    "translator": "fingerprint of the engine, or whom upstream names; native: nobody translated",
    "origin": "as in captions",
    "source_lang": "language of the source captions; that of the target: originals are not there",
    "target_lang": "language that it translated to",
    "num_captions": "captions that it gave, kept or not",
    "share": "of all captions of the dataset that came as far as translating, 0 to 1",
    "num_kept": "those that are kept",
    "mean_score": "mean of translation_score",
    "score_p5": "translation_score that 5 % of its captions are below",
    "score_p50": "median of translation_score",
    "num_truncated": "captions of which the decoding hit its limit",
    "num_repetitive": "captions that looped",
    "mean_length_ratio": "mean of length_ratio",
    "mean_copied_share": "mean of copied_share",
    "num_numbers_lost": "captions that lack a number of their source",
    "num_numbers_invented": "captions with a number that their source lacks",
    "mean_language_margin": "mean of language_margin",
    "mean_round_trip_chrf": "mean of round_trip_chrf, where there is any",
}

_BUILDS = {
    "target_lang": "language of the dataset",
    "translator": 'fingerprint of the recipe\'s engine, or "native" where it has none',
    "num_captions": "caption rows, kept or rejected",
    "num_kept": "caption rows that are kept",
    "num_pairs": "published images",
    "num_train": "published images of the split train",
    "num_val": "published images of the split val",
    "num_test": "published images of the split test",
    "num_marked": "published images in no split, since they hold something of a test set",
    "bytes": "of the files of pairs and captions",
    "settings": "what of the recipe decides the content, as JSON",
}

COLUMNS: Mapping[str, Mapping[str, str]] = {
    view: {**_WHERE, **columns}
    for view, columns in {
        "pairs": PAIR_COLUMNS,
        "captions": CAPTION_COLUMNS,
        "rejects": CAPTION_COLUMNS,
        "image_outcomes": OUTCOME_COLUMNS,
        "images": _IMAGES,
        "funnel": _FUNNEL,
        "drop_reasons": _DROP_REASONS,
        "leaks": _LEAK_COUNTS,
        "translators": _TRANSLATORS,
        "builds": _BUILDS,
    }.items()
}

"""The reasons for which captions are dropped, by step: a closed set, so that a report can explain each number."""

_CAPTION_REASONS = {
    "caption_empty": "nothing is left of the caption",
    "caption_too_short": "fewer words or characters than asked for",
    "caption_too_long": "more words or characters than allowed",
    "wrong_language": "the caption is surely in another language than its row says",
}

REASONS: dict[str, dict[str, str]] = {
    "clean": {
        **_CAPTION_REASONS,
        "caption_boilerplate": "a file name, an address or a number stands where a caption should be",
    },
    "screen": {
        "test_image": "the image is, by its identity, one of a test set of the recipe",
        "test_caption": "the caption is, but for punctuation and case, one of a test set of the recipe",
        "near_duplicate_caption": "an earlier caption of the same image says the same in nearly the same letters",
        "common_caption": "more images than the recipe allows have this caption, or nearly this one",
    },
    "check": {
        **_CAPTION_REASONS,
        "mostly_proper_nouns": "the caption is little but names",
        "copied_through": "the translation equals its source",
        "copied_words": "the translation left too many words as they are in its source",
        "repeated_ngrams": "the translation loops",
        "translation_repetitive": "the engine says that the translation loops, at the second try as well",
        "translation_truncated": "the translation was cut off: the engine's decoding hit its limit",
        "length_ratio": "the translation is far shorter or longer than its source",
        "numbers_lost": "the translation lacks a number of its source",
        "numbers_invented": "the translation has a number that its source lacks",
        "low_translation_score": "the engine itself thought the translation unlikely",
        "low_round_trip": "translated back, the translation has little of its source",
        "test_caption": "the translation is, but for punctuation and case, a caption of a test set of the recipe",
    },
    "deduplicate": {
        "test_pixels": "the image looks like one of a test set of the recipe",
        "split_leak": "an image of a split that is held out looks the same",
        "placeholder_image": "the host answers many addresses with the same bytes: they stand for images that are gone",
        "duplicate_image": "another sample, one that is to be preferred, has an image of the same bytes",
        "near_duplicate_image": "another sample, one that is to be preferred, has an image that looks the same",
        "duplicate_caption": "an earlier caption of the same image says the same",
    },
}

"""The reasons for which captions and images are dropped, by step: a closed set, so that a report can explain each."""

from cleaning.checks import CHECK_REASONS, CLEAN_REASONS

SCREEN_REASONS = {
    "test_image": "the image is, by its identity, one of a test set of the recipe",
    "test_caption": "the caption is, but for punctuation and case, one of a test set of the recipe",
    "near_duplicate_caption": "an earlier caption of the same image says the same in nearly the same letters",
    "common_caption": "more images than the recipe allows have this caption, or nearly this one",
}
# Of the check step, beside those of its checks.
CHECK_LEAK_REASONS = {
    "test_caption": "the translation is, but for punctuation and case, a caption of a test set of the recipe",
}
DEDUPLICATE_REASONS = {
    "test_pixels": "the image looks like one of a test set of the recipe",
    "split_leak": "an image of a split that is held out looks the same",
    "placeholder_image": "the host answers many addresses with the same bytes: they stand for images that are gone",
    "duplicate_image": "another sample, one that is to be preferred, has an image of the same bytes",
    "near_duplicate_image": "another sample, one that is to be preferred, has an image that looks the same",
    "duplicate_caption": "an earlier caption of the same image says the same",
}

REASONS: dict[str, dict[str, str]] = {
    "clean": CLEAN_REASONS,
    "screen": SCREEN_REASONS,
    "check": CHECK_REASONS | CHECK_LEAK_REASONS,
    "deduplicate": DEDUPLICATE_REASONS,
}

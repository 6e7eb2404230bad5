"""The reasons for which translating drops a caption: apart from the step, so that telling them loads no engine."""

TRANSLATE_REASONS = {
    "language_not_served": "the caption's language is neither the target language nor the one the engine translates",
    "translation_empty": "the engine returned no text",
}

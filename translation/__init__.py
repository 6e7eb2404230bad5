"""Machine translation of captions, offline, with a score for each translation."""

"""Data catalog: upstream sources, samples and their rows, storage, images, exports and test sets."""

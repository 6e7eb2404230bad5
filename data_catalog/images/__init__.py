"""Images: decoding, normalising and hashing, in child processes."""

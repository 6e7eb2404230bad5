"""Images: decoding, normalising and hashing, and the child processes that fetch and decode."""

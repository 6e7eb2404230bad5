"""Training of a compact CLIP from pair shards, and its scores."""

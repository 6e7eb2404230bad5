"""From pair shards to a compact CLIP and its scores."""

"""Captions and images that are the same, or nearly."""

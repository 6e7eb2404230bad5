"""Exact and near-duplicates of captions and images."""

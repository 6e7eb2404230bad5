"""Snapshots as they are published, and take-downs, which publish them again without what is forgotten."""

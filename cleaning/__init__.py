"""Captions to better captions, or to a named reason to drop them."""

"""Captions in one language to captions in another, offline, with scores."""

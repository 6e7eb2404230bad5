"""Errors, settings, language packs, progress, and texts for people: what every room uses."""

"""Telling which language a text is in."""

"""Identification of the language of a text."""

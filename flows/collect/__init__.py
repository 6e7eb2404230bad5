"""Captions by the people who speak a language: pictures dealt out as offline forms, and their answers merged."""

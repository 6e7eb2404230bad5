"""Mending the characters of captions; counting and comparing their words and letters."""

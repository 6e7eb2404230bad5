"""Cleaning of texts, and counting and comparison of words and letters."""

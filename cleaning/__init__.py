"""Cleaning: checks of captions, duplicates, leaks of test sets, and identification of languages."""

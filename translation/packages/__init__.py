"""Argos Translate packages: read, found, downloaded and installed."""

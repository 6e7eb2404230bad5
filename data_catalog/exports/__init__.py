"""Exports of a catalog: cards, metadata and files for other tools."""

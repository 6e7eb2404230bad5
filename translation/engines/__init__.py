"""The translation engines."""

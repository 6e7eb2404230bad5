"""A minimal recipe, for tests that change it."""

from pathlib import Path

MINIMAL = """
target_language = "en"
[sources.mine]
kind = "pairs"
files = ["{recipe}/pairs.tsv"]
url_column = "url"
caption_column = "caption"
lang = "en"
"""


def write(folder: Path, text: str = MINIMAL) -> str:
    """Write a recipe `mine.toml` into a folder, and return its path."""
    path = folder / "mine.toml"
    path.write_text(text, encoding="utf-8")
    return str(path)

"""Recipes: read from TOML and `--set`, validated, with the language packs and engines that they name."""

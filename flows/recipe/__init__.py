"""Recipes, read from TOML and `--set` and validated, with the language packs and engines that they name."""

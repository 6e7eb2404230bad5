"""The outermost package: the only one that imports Prefect, defines the command line and reads TOML."""

# Import packages of this project, without the public API.
PACKAGES = ("flows", "data_catalog", "translation", "cleaning", "training")

"""The edge: the only place that knows Prefect, the command line and TOML."""

PACKAGES = ("flows", "data_catalog", "translation", "cleaning", "training")  # ours, below the public API

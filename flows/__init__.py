"""The edge: the only place that knows Prefect, the command line and TOML."""

"""Captions of lines, CSV, TSV and Parquet files, as streams."""

"""Readers of native upstream files: one module a dataset family, all yielding the rows of `rows.py`."""

"""Readers of upstream files in their native formats: one module per dataset family; all yield the rows of `rows.py`."""

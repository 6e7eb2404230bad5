"""Prefect and Dask: flows, executors, servers and what becomes of their runs."""

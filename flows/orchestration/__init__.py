"""Orchestration with Prefect and Dask: flows, executors, servers and their background processes."""

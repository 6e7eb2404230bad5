"""Files: atomic writes, integrity records, locks, failpoints, and child processes."""

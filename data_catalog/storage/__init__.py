"""Files that cannot lie: atomic writes, locks, step outputs, manifests, verification and history."""

"""Storage of a catalog: atomic writes, locks, step outputs, manifests, verification and history."""

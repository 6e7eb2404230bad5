"""Ground floor: what a sample is, where it comes from and where it lies."""

"""Training inputs: pairs of a dataset, batches, augmentations, images, and cached features."""

"""What goes into a model: pairs of a dataset, batches, augmentation, images, features that are kept."""

"""Uses of a trained model: search, classify and localize, and the images that show their results."""

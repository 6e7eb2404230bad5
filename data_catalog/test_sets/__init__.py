"""Public test sets as lists of images with identities and captions, so that no training data holds them."""

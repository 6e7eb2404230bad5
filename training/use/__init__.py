"""What a trained model is good for: search, classify, localize, and the pictures that they draw."""

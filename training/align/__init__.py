"""Align frozen towers: train only the heads that map their features into one space."""

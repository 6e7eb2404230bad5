"""Training of a compact Transformer on parallel captions, packed for Argos, for languages without a package."""

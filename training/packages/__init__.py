"""Translation packages: a compact Transformer, trained on parallel captions and packed for Argos Translate."""

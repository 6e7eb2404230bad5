"""From a file of parallel captions to an Argos package: a compact Transformer for a language that no package serves."""

"""Scores: metrics, galleries, third-party models and scoreboards."""

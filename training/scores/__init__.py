"""Scores: metrics, galleries, third-party models, scoreboards and ablations."""

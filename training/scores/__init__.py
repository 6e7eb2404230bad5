"""Scores: metrics, galleries, models of anybody, scoreboards, ablations."""

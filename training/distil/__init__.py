"""Distillation: a student text tower learns a teacher's features from parallel sentences."""

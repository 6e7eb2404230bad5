"""Distillation: a student text tower learns a teacher's features from parallel sentences."""

from training.runs.processes import prepare_for_torch

prepare_for_torch()  # before the modules of this folder load torch

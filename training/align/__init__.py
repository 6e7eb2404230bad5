"""Align frozen towers: train only the heads that map their features into one space."""

from training.runs.processes import prepare_for_torch

prepare_for_torch()  # before the modules of this folder load torch

"""Training of a CLIP model: inputs, losses and optimizers."""

from training.runs.processes import prepare_for_torch

prepare_for_torch()  # before the modules of this folder load torch

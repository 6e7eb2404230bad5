"""The training loop, its losses and optimizers, resume states, and the time and energy of a run."""

from training.processes import prepare_for_torch

prepare_for_torch()  # before the modules of this folder load torch

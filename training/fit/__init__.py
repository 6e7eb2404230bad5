"""The training loop, its losses and optimizers, resume states, and the time and energy of a run."""

from training.processes import let_threads_sleep

let_threads_sleep()  # before the modules of this folder load torch

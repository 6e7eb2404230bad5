"""Training: the loop, its losses and optimizers, resume states, and what a run costs."""

from training.processes import let_threads_sleep

let_threads_sleep()  # the modules of this folder load torch

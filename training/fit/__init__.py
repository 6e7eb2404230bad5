"""Training: the loop, its losses and optimizers, resume states, and what a run costs."""

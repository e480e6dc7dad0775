"""One training: set-up, the epoch loop, the optimisation step, checkpoints, history."""

"""Runs: the loop, the run directory, checkpoints, resume, training of networks."""

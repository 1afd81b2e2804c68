"""Optimizers, one a file. Each takes parameters and a learning rate and is stepped by the loop."""

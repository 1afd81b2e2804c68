"""Learning-rate schedules, one a file: pure functions from a step to a factor of the peak rate."""

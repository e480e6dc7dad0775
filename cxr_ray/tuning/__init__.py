"""Sweeps: the search space, trials, their ranking. Ray Tune itself is used in on_ray/."""

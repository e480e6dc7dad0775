"""Sweeps: search space, trials and their ranking. Running trials on Ray Tune is in on_ray/."""

"""Predictions of a trained run."""

"""Losses by name. Cells whose target is unknown do not count."""

from cxr_ray.losses.base import AUTO, Asymmetric, BinaryCrossEntropy, CrossEntropy, Focal, Loss, build, probabilities

__all__ = ["AUTO", "Asymmetric", "BinaryCrossEntropy", "CrossEntropy", "Focal", "Loss", "build", "probabilities"]

"""Losses by name; each works on the cells whose target is known."""

from cxr_ray.losses.base import AUTO, Asymmetric, BinaryCrossEntropy, CrossEntropy, Focal, Loss, build, probabilities

__all__ = ["AUTO", "Asymmetric", "BinaryCrossEntropy", "CrossEntropy", "Focal", "Loss", "build", "probabilities"]

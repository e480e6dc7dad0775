"""Metadata of a family of networks: its usual input size, and the explanation methods that are valid for it.

`cxr-ray models` lists the methods by these names. A method is declared for a family only if its rules cover every layer:
otherwise it would give plausible but wrong maps.
"""

from typing import ClassVar

from cxr_ray.registry import Options

GRADIENTS = ("saliency", "gradient", "gradient_x_input", "smoothgrad", "integrated_gradients", "occlusion")
"""Valid for any differentiable network."""
MAPS = (*GRADIENTS, "gradcam")
"""Valid for networks whose last maps (or tokens) keep the layout of the image."""
LRP = ("lrp_epsilon", "lrp_alphabeta", "lrp_gamma", "lrp_composite")
"""Valid for networks of which every operation has a rule (`explanation/lrp/`)."""
RELEVANCE = (*MAPS, *LRP)
"""All of them."""


class Family(Options):
    """Base of a model's Options. A model with plain Options counts as one for 224 x 224 pixels, explained by gradients only."""

    natural_size: ClassVar[tuple[int, int]] = (224, 224)
    """(height, width) in pixels of its usual input."""
    explained_by: ClassVar[tuple[str, ...]] = GRADIENTS
    """Explanation methods that are valid for it."""

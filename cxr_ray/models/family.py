"""What a family of networks says of itself beside its knobs: the size it is usually fed, and what explains it.

`cxr-ray models` lists the methods by these names. A method is declared for a family where its rules hold for every
layer of it; declaring more would give maps that look right and are not.
"""

from typing import ClassVar

from cxr_ray.registry import Options

GRADIENTS = ("saliency", "integrated_gradients")
"""What serves whatever has gradients."""
MAPS = (*GRADIENTS, "gradcam")
"""What serves networks that keep the image's layout to their last maps (or tokens)."""
RELEVANCE = (*MAPS, "lrp_epsilon", "lrp_alphabeta")
"""What serves chains, skips and concatenations of convolutions, batch norms, rectifiers, poolings and linear layers."""


class Family(Options):
    """Base of a model's Options. A model registered with plain Options is taken to be fed 224 x 224, with gradients alone."""

    natural_size: ClassVar[tuple[int, int]] = (224, 224)
    """(height, width) in pixels that it is usually fed."""
    explained_by: ClassVar[tuple[str, ...]] = GRADIENTS
    """Methods of explanation that hold for it."""

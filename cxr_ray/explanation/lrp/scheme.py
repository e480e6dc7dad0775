"""Which division each affine layer of a network gets: one for all, or by kind and depth (a composite)."""

from dataclasses import dataclass, field

from torch import Tensor

from cxr_ray.errors import UserError
from cxr_ray.explanation.lrp.affine import AffineRule
from cxr_ray.explanation.lrp.divisions import Box, Division, Flat
from cxr_ray.explanation.lrp.rules import Step


@dataclass(frozen=True)
class Scheme:
    """Divisions of affine layers, and the stabiliser of other sums (skip additions, layer norms)."""

    dense: Division
    """Of linear layers, and of convolutions above the lower part."""
    convolution: Division
    """Of convolutions in the lower part."""
    epsilon: float
    first: Division | None = None
    """Of the layers that take the image itself; None: as the others."""
    lower: float = 1.0
    """Share of the convolutions, counted from the image, that belongs to the lower part."""


@dataclass
class Assignment:
    """A scheme on the steps of one network. Raises `UserError` if it has a division for the first layer and there is no such layer."""

    scheme: Scheme
    steps: list[Step]
    image: Tensor
    _divisions: dict[int, Division] = field(default_factory=dict)

    def __post_init__(self) -> None:
        scheme = self.scheme
        affine = [step for step in self.steps if isinstance(step.rule, AffineRule)]
        convolutions = [step for step in affine if not step.rule.channels_last]  # type: ignore[attr-defined]
        lower = {id(step) for step in convolutions[: round(scheme.lower * len(convolutions))]}
        for step in affine:
            self._divisions[id(step)] = scheme.convolution if id(step) in lower else scheme.dense
        if scheme.first is None:
            return
        on_image = [step for step in self.steps if any(x is self.image for x in step.inputs)]
        for step in on_image:
            if not isinstance(step.rule, AffineRule):
                raise UserError(
                    f"input_rule: the network's first operation is {step.kind} (in {step.layer}), and flat and zbox need a convolution "
                    "or linear layer that takes the pixels; set input_rule to same"
                )
            self._divisions[id(step)] = scheme.first

    @property
    def epsilon(self) -> float:
        """The stabiliser of sums without weights."""
        return self.scheme.epsilon

    def division(self, step: Step) -> Division:
        """The division of an affine layer."""
        return self._divisions[id(step)]


def first_division(name: str, low: float | None, high: float | None) -> Division | None:
    """The division called `name`: same (None), flat or zbox."""
    return {"same": None, "flat": Flat(), "zbox": Box(low, high)}[name]

"""The LRP methods by name, with their options. The maps: propagate.py; divisions: divisions.py; rules of layers: rules.py."""
# N images, C channels, H height, W width

from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from cxr_ray.errors import UserError
from cxr_ray.explanation.lrp import attention, operations  # noqa: F401  (register their rules)
from cxr_ray.explanation.lrp.divisions import TINY, AlphaBeta, Division, Epsilon, Gamma
from cxr_ray.explanation.lrp.propagate import IDENTITY, explain
from cxr_ray.explanation.lrp.recorder import record
from cxr_ray.explanation.lrp.rules import BatchMoved, Unsupported
from cxr_ray.explanation.lrp.scheme import Scheme, first_division
from cxr_ray.explanation.methods import METHODS, Attribution
from cxr_ray.registry import Options

ALPHA_BETA_IDENTITY = (
    f"{IDENTITY}; an output without a positive or without a negative part passes on alpha or -beta times its relevance, "
    "and epsilon holds the difference"
)


class LrpOptions(Options):
    """What every LRP method can set for the layers on the pixels."""

    input_rule: Literal["same", "flat", "zbox"] = "same"
    """same: as the layers above; flat: equal shares of the pixels under a kernel (Lapuschkin et al. 2016); zbox: z^B, for pixels between two bounds (Montavon et al. 2017)."""
    low: float | None = None
    """zbox: black in the network's normalised input; null: each image's darkest pixel."""
    high: float | None = None
    """zbox: white; null: each image's brightest pixel."""

    def scheme(self) -> Scheme:
        """The divisions that these options stand for."""
        raise NotImplementedError

    def same(self, division: Division, epsilon: float) -> Scheme:
        """One division for all layers but those on the pixels."""
        return Scheme(division, division, epsilon, first_division(self.input_rule, self.low, self.high))


class EpsilonOptions(LrpOptions):
    """The epsilon rule."""

    epsilon: float = Field(default=0.1, ge=0.0)
    """Added to the size of every denominator; it absorbs the relevance of weak outputs. 0: gradient x input in a ReLU network."""

    def scheme(self) -> Scheme:
        """Epsilon everywhere."""
        return self.same(Epsilon(self.epsilon), self.epsilon)


class AlphaBetaOptions(LrpOptions):
    """The alpha-beta rule."""

    alpha: float = Field(default=2.0, ge=1.0)
    """Weight of positive contributions; alpha - beta must be 1."""
    beta: float = Field(default=1.0, ge=0.0)
    """Weight of negative ones."""

    @model_validator(mode="after")
    def _one_apart(self) -> "AlphaBetaOptions":
        if abs(self.alpha - self.beta - 1.0) > 1e-9:
            raise ValueError("alpha - beta must be 1 (such as alpha 3 and beta 2), or relevance is not conserved")
        return self

    def scheme(self) -> Scheme:
        """Alpha-beta in convolutions and linear layers; sums without weights keep exact shares."""
        return self.same(AlphaBeta(self.alpha, self.beta), TINY)


class GammaOptions(LrpOptions):
    """The gamma rule."""

    gamma: float = Field(default=0.25, ge=0.0)
    """By how much positive contributions count more (Montavon et al. 2019 use 0.25)."""

    def scheme(self) -> Scheme:
        """Gamma in convolutions and linear layers."""
        return self.same(Gamma(self.gamma), TINY)


class CompositeOptions(LrpOptions):
    """Rules by depth."""

    input_rule: Literal["same", "flat", "zbox"] = "flat"
    """same: as the layers above; flat: equal shares of the pixels under a kernel (Lapuschkin et al. 2016); zbox: z^B, for pixels between two bounds (Montavon et al. 2017)."""
    convolutions: Literal["alphabeta", "gamma"] = "alphabeta"
    """Rule of the lower convolutions."""
    lower: float = Field(default=1.0, ge=0.0, le=1.0)
    """Share of the convolutions, counted from the image, with that rule; the others have the epsilon rule."""
    alpha: float = Field(default=1.0, ge=1.0)
    """Of alphabeta; beta is alpha - 1. 1 is the z+ rule."""
    gamma: float = Field(default=0.25, ge=0.0)
    """Of gamma."""
    epsilon: float = Field(default=0.1, ge=0.0)
    """Of linear layers and upper convolutions."""

    def scheme(self) -> Scheme:
        """Epsilon above, alpha-beta or gamma below, the input rule on the pixels."""
        below: Division = (
            AlphaBeta(self.alpha, self.alpha - 1.0) if self.convolutions == "alphabeta" else Gamma(self.gamma)
        )
        first = first_division(self.input_rule, self.low, self.high)
        return Scheme(Epsilon(self.epsilon), below, self.epsilon, first, self.lower)


@METHODS.register("lrp_epsilon", EpsilonOptions)
def lrp_epsilon(network: nn.Module, inputs: Tensor, targets: Tensor, options: EpsilonOptions) -> Attribution:
    """LRP with the epsilon rule (Bach et al. 2015): signed relevance that adds up to the logit, less what biases and epsilon take."""
    return _explain("lrp_epsilon", network, inputs, targets, options)


@METHODS.register("lrp_alphabeta", AlphaBetaOptions)
def lrp_alphabeta(network: nn.Module, inputs: Tensor, targets: Tensor, options: AlphaBetaOptions) -> Attribution:
    """LRP with the alpha-beta rule (Bach et al. 2015): positive and negative contributions are divided separately."""
    return _explain("lrp_alphabeta", network, inputs, targets, options, identity=ALPHA_BETA_IDENTITY)


@METHODS.register("lrp_gamma", GammaOptions)
def lrp_gamma(network: nn.Module, inputs: Tensor, targets: Tensor, options: GammaOptions) -> Attribution:
    """LRP with the gamma rule (Montavon et al. 2019): positive contributions count more."""
    return _explain("lrp_gamma", network, inputs, targets, options)


@METHODS.register("lrp_composite", CompositeOptions)
def lrp_composite(network: nn.Module, inputs: Tensor, targets: Tensor, options: CompositeOptions) -> Attribution:
    """LRP with rules by depth (Kohlbrenner et al. 2020): epsilon in linear layers, z+ (or alpha-beta, gamma) in convolutions, flat on the pixels."""
    identity = ALPHA_BETA_IDENTITY if options.convolutions == "alphabeta" else IDENTITY
    return _explain("lrp_composite", network, inputs, targets, options, identity=identity)


def refusal(network: nn.Module, example: Tensor) -> str | None:
    """Why LRP cannot explain `network`, in one line that names the operation and what can; None if it can.

    `example` is any input [1, C, H, W] of the network, which runs once."""
    try:
        record(network, example)
    except BatchMoved:
        return refusal(network, example[:1])
    except Unsupported as error:
        return _refused("LRP", network, error)
    return None


def _explain(
    name: str, network: nn.Module, inputs: Tensor, targets: Tensor, options: LrpOptions, *, identity: str = IDENTITY
) -> Attribution:
    """Run a method; what cannot be explained is refused in the method's name."""
    if options.low is not None and options.high is not None and not options.low < options.high:
        raise UserError(f"{name}: low must be below high, got {options.low} and {options.high}")
    try:
        with torch.inference_mode(False), torch.no_grad():
            return explain(network, inputs, targets, options.scheme(), identity=identity)
    except Unsupported as error:
        raise Unsupported(_refused(name, network, error)) from None


def _refused(name: str, network: nn.Module, error: Unsupported) -> str:
    return (
        f"{name} cannot explain {type(network).__name__}: it uses {error}, for which there is no rule; saliency and "
        "integrated_gradients explain every network (your own layer: register a rule with @LRP_RULES.register)"
    )

"""How relevance passes through one operation: the base class, and the rules by layer class or by name of a torch operation.

Relevance is kept as a coefficient: an activation `a` with coefficient `c` has the relevance R = a * c. Coefficients of several
consumers add up, and no rule divides by an activation. At the explained point every rule writes its operation as
y = J x + constant; the coefficient of x is then J' c, and the constant takes the relevance `constant * c`. With J the
derivative, c is the gradient; a rule says where it is not.
"""
# N images

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from cxr_ray.errors import UserError
from cxr_ray.explanation.lrp.sums import per_image, stabilised

Absorber = Literal["bias", "clip"]


class Unsupported(UserError):
    """An operation has no rule, so that no relevance can be computed for the network."""


class BatchMoved(Exception):
    """The first dimension no longer runs over images: the caller explains one image at a time."""


@dataclass
class Step:
    """One recorded operation: `outputs = run(*inputs)`."""

    layer: str
    """Dotted name of the module that called it."""
    kind: str
    """The operation or, for a module with a rule of its own, its class."""
    rule: "Rule"
    run: Callable[..., Any]
    """The operation as a function of the inputs that depend on the image; its other arguments are fixed."""
    args: tuple[Any, ...]
    """All arguments by position, as the operation was called."""
    kwargs: dict[str, Any]
    inputs: list[Tensor]
    """Those of its arguments that depend on the image."""
    outputs: list[Tensor] = field(default_factory=list)
    leaves: list[Tensor] = field(default_factory=list)
    """`inputs`, each a tensor of its own even if one is passed twice."""
    values: list[Tensor] = field(default_factory=list)
    """`outputs`, differentiable by `leaves`."""


class Share(NamedTuple):
    """What one step makes of the relevance of its outputs."""

    coefficients: list[Tensor]
    """One per input of the step."""
    bias: Tensor | float = 0.0
    """[N], relevance that constants took."""
    clip: Tensor | float = 0.0
    """[N], relevance that the constants of clipped activations took."""
    epsilon: Tensor | float = 0.0
    """[N], relevance that the stabiliser absorbed."""
    relevance: Tensor | None = None
    """Relevance of the one input, of rules that do not distribute by its value (flat, zbox); `coefficients` is empty then."""


class Rule:
    """The rule of an operation that is its own linear form: y = J x with J the derivative, so relevance is conserved.

    That holds for homogeneous functions (ReLU, poolings, means) and for those that only rearrange values. Subclasses
    declare what differs. A new layer needs a class with a `surrogate` at most:

        @LRP_RULES.register(Squash)
        class SquashRule(Rule):
            def surrogate(self, layer, x):  # y = x * factor, where the factor counts as fixed
                return x * (layer(x) / x).detach()
    """

    absorbs: ClassVar[Absorber | None] = None
    """What the constant of the linear form is called in the certificate; None if there is none."""
    shared: ClassVar[bool] = False
    """Whether the operation is a product, whose factors get equal shares (Achtibat et al. 2024, uniform rule)."""
    differentiates: ClassVar[bool] = True
    """Whether `back` needs the derivative of the operation; a rule with a `back` of its own may not."""
    gates: ClassVar[bool] = False
    """Whether outputs only scale something else: as factors of a product they count as fixed and get no relevance (Arras et
    al. 2017, signal-take-all)."""
    rearranges: ClassVar[bool] = False
    """Whether outputs are the inputs' values in another order or shape, so that gates may pass through it too."""

    def surrogate(self, *args: Any, **kwargs: Any) -> Any:
        """Replaces the operation, with equal values: what it detaches counts as fixed.

        Called as the operation is, and for a layer class with the layer first."""
        raise NotImplementedError

    def expand(self, *args: Any, **kwargs: Any) -> Any:
        """Replaces the operation by simpler ones, each with its own rule. Called as `surrogate`."""
        raise NotImplementedError

    def has(self, method: Literal["surrogate", "expand"]) -> bool:
        """Whether this rule declares the method."""
        return getattr(type(self), method) is not getattr(Rule, method)

    def stabilise(self, step: Step) -> bool:
        """Whether outputs are sums of contributions that may cancel; then epsilon is added to their denominators."""
        return False

    def refuses(self, step: Step) -> str | None:
        """Why this call cannot be explained although its operation has a rule; None if it can."""
        return None

    def constant(self, step: Step) -> Tensor | None:
        """y - J x, broadcastable to the output; None if it is zero. By default from a directional derivative."""
        inputs = tuple(step.inputs)
        along = torch.func.jvp(step.run, inputs, inputs)[1]
        return (step.values[0] - along).detach()

    def back(self, step: Step, coefficients: list[Tensor], scheme: Any, images: int) -> Share:
        """The share of each input, from the coefficients of the outputs. `scheme` is a `Scheme`."""
        epsilon: Tensor | float = 0.0
        if self.stabilise(step) and scheme.epsilon > 0.0:
            value, c = step.values[0].detach(), coefficients[0]
            damped = c * stabilised(value, scheme.epsilon)
            epsilon = per_image(c - damped, value, images)
            coefficients = [damped]
        found = torch.autograd.grad(step.values, step.leaves, coefficients, allow_unused=True)
        shares = [torch.zeros_like(x) if c is None else c for c, x in zip(found, step.inputs, strict=True)]
        if self.shared and len(shares) > 1:
            shares = [c / len(shares) for c in shares]
        constant = self.constant(step) if self.absorbs is not None else None
        if constant is None:
            return Share(shares, epsilon=epsilon)
        taken = per_image(coefficients[0], constant, images)
        if self.absorbs == "clip":
            return Share(shares, clip=taken, epsilon=epsilon)
        return Share(shares, bias=taken, epsilon=epsilon)


R = TypeVar("R", bound=type[Rule])


class LayerRules:
    """Rules by layer class, for all of a module's work at once, and by name of a torch operation."""

    def __init__(self) -> None:
        self._operations: dict[str, Rule] = {}
        self._layers: dict[type[nn.Module], Rule] = {}

    def register(self, *keys: type[nn.Module] | str) -> Callable[[R], R]:
        """Decorator of a `Rule` class: `@LRP_RULES.register(MyLayer)`, `@LRP_RULES.register("relu", "threshold")`.

        A layer class is matched exactly: a subclass may compute something else. Registering a key again replaces its rule."""

        def add(rule: R) -> R:
            for key in keys:
                if isinstance(key, str):
                    self._operations[key] = rule()
                else:
                    self._layers[key] = rule()
            return rule

        return add

    def unregister(self, key: type[nn.Module] | str) -> None:
        """Remove a rule. Raises `KeyError` if there is none."""
        if isinstance(key, str):
            del self._operations[key]
        else:
            del self._layers[key]

    def of_operation(self, name: str) -> Rule | None:
        """The rule of the torch operation `name`, without a trailing underscore; None if it has none."""
        return self._operations.get(name)

    def of_layer(self, layer: nn.Module) -> Rule | None:
        """The rule of this very class of layer; None if the operations inside it are to be used."""
        return self._layers.get(type(layer))


LRP_RULES = LayerRules()

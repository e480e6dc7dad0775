"""Runs a network once and records every operation on the image: the steps that relevance goes back through.

Calls of torch functions are seen whoever makes them: modules, `+=` inside a `forward`, hooks. Values come from a real image,
so control flow that depends on shapes needs no tracing. What cannot be seen or has no rule is refused.
"""
# N images, C channels, H height, W width, L outputs

import inspect
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_map_only, tree_unflatten

from cxr_ray.explanation.lrp.rules import LRP_RULES, BatchMoved, Rule, Step, Unsupported

# Results are numbers of the image that Python then computes with: relevance would be lost there.
READ_OUT = {"item", "tolist", "numpy", "__array__", "__float__", "__int__", "__complex__", "__index__"}
# Results are constant around the explained point, or contain nothing of the image.
CONSTANT = {
    "zeros_like", "ones_like", "full_like", "empty_like", "rand_like", "new_zeros", "new_ones", "new_full", "new_empty",
    "new_tensor", "gt", "lt", "ge", "le", "eq", "ne", "argmax", "argmin", "isnan", "isinf", "isfinite", "logical_not",
    "logical_and", "logical_or", "sign",
}  # fmt: skip
# Operations with an index or a dimension; images stay first if that does not touch dimension 0.
PERMUTING = {"permute", "transpose", "swapaxes", "swapdims", "movedim", "moveaxis", "t", "T", "mT"}
ALONG_DIMENSION = {
    "select", "unbind", "stack", "cat", "concat", "chunk", "split", "narrow", "flip", "roll", "unsqueeze", "mean", "sum",
    "amax", "softmax",
}  # fmt: skip


@dataclass
class Tape:
    """What the recorder saw."""

    steps: list[Step]
    image: Tensor
    """[N, C, H, W], the tensor that the first steps name as their input."""
    logits: Tensor
    """[N, L]."""


def record(network: nn.Module, inputs: Tensor) -> Tape:
    """Run `network`, which is in eval mode, on `inputs` [N, C, H, W].

    The network is unchanged afterwards. Raises `Unsupported` with the operation that has no rule, and `BatchMoved` if a batch
    of several images does not keep them in the first dimension."""
    recorder = Recorder(len(inputs))
    with torch.inference_mode(False), torch.enable_grad():
        image = recorder.follow(inputs.clone() if inputs.is_inference() else inputs)
        with _watched(network, recorder), recorder:
            logits = network(image)
    if not isinstance(logits, Tensor) or logits.ndim != 2:
        shape = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise Unsupported(f"gives {shape}, not logits [N, outputs]")
    recorder.check_end(logits)
    return Tape(recorder.steps, image, logits)


class Recorder(TorchFunctionMode):
    """Inside the block, operations on tensors that depend on the image become steps.

    Each works out of place on leaves, so that its own derivative is local and the graph of the network is never built."""

    def __init__(self, images: int) -> None:
        super().__init__()
        self.steps: list[Step] = []
        self.path = [""]
        self._images = images
        self._live: dict[int, Tensor] = {}
        self._gates: dict[int, Tensor] = {}
        self._replaced: dict[int, Tensor] = {}
        self._outdated: dict[int, Tensor] = {}

    def follow(self, value: Tensor, *, gate: bool = False) -> Tensor:
        """A leaf with the values of `value` that counts as depending on the image."""
        leaf = value.detach().requires_grad_()
        (self._gates if gate else self._live)[id(leaf)] = leaf
        return leaf

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Records the call if an argument depends on the image."""
        name, in_place = operation(func)
        args, kwargs = tree_map_only(Tensor, self._current, (args, kwargs or {}))
        flat = tree_flatten((args, kwargs))[0]
        live = [x for x in flat if id(x) in self._live]
        gates = [x for x in flat if id(x) in self._gates]
        if not live and not gates:
            with torch.no_grad():  # of weights only
                return func(*args, **kwargs)
        if name in READ_OUT or name in ("setitem", "data", "detach") or kwargs.get("out") is not None:
            raise self._unsupported(f"torch.{name}, which takes values out of the graph or writes into it")
        rule = LRP_RULES.of_operation(name)
        if rule is not None and rule.has("expand"):
            with self:
                return rule.expand(*args, **kwargs)
        function: Callable[..., Any] = func
        target = None
        if in_place:
            target, function = args[0], getattr(Tensor, name)
        elif (written := _inplace_flag(func, args, kwargs)) is not None:
            target, args, kwargs = args[0] if written[0] else None, *written[1:]
        if rule is None:
            return self._unruled(name, function, args, kwargs)
        if gates and not (rule.rearranges or name == "mul"):
            raise self._unsupported(
                f"torch.{name} of a gate (sigmoid), which is explained only as the factor of a product"
            )
        if gates and not live:
            with torch.no_grad():
                return tree_map_only(Tensor, partial(self.follow, gate=True), function(*args, **kwargs))
        if self._images > 1 and not _keeps_images(name, args, kwargs):
            raise BatchMoved
        if rule.has("surrogate"):
            function = rule.surrogate
        result = self.step(name, rule, function, args, kwargs)
        if target is not None and id(target) not in self._live:
            raise self._unsupported(f"torch.{name} in place on a tensor that does not depend on the image")
        if target is not None:
            self._overwrite(target, result)
        return result

    def step(
        self, kind: str, rule: Rule, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Run one operation and record it. The result's tensors depend on the image."""
        flat, spec = tree_flatten((args, kwargs))
        where = [i for i, x in enumerate(flat) if id(x) in self._live]

        def run(*inputs: Tensor) -> Any:
            values = list(flat)
            for i, x in zip(where, inputs, strict=True):
                values[i] = x
            positional, named = tree_unflatten(values, spec)
            return function(*positional, **named)

        inputs = [flat[i] for i in where]
        step = Step(self.path[-1], kind, rule, run, args, kwargs, inputs)
        refusal = rule.refuses(step)
        if refusal is not None:
            raise self._unsupported(refusal)
        seen: set[int] = set()
        for x in inputs:
            # A tensor that an autograd function returned has a history through other steps.
            fresh = id(x) in seen or x.grad_fn is not None
            step.leaves.append(x.detach().requires_grad_() if fresh else x)
            seen.add(id(x))
        with torch.set_grad_enabled(rule.differentiates):
            result = run(*step.leaves)
        values, shape = tree_flatten(result)
        if len(values) == 1 and any(values[0] is x for x in inputs):  # dropout in eval mode, contiguous
            return result
        step.values = [x for x in values if isinstance(x, Tensor)]
        if self._images > 1 and any(x.ndim == 0 or x.shape[0] % self._images for x in step.values):
            raise BatchMoved
        followed = [self.follow(x, gate=rule.gates) if isinstance(x, Tensor) else x for x in values]
        if not rule.gates:
            step.outputs = [x for x in followed if isinstance(x, Tensor)]
            self.steps.append(step)
        return tree_unflatten(followed, shape)

    def check_end(self, logits: Tensor) -> None:
        """Raises `Unsupported` unless `logits` are the output of a step."""
        self._current(logits)
        if id(logits) in self._gates:
            raise self._unsupported("a sigmoid as the output: relevance starts from logits")
        if id(logits) not in self._live:
            raise self._unsupported("an output that does not depend on the image")

    def _unruled(self, name: str, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The result of an operation without a rule if it needs none: shapes, comparisons. Raises `Unsupported` otherwise."""
        if name in CONSTANT:
            with torch.no_grad():
                return function(*args, **kwargs)
        if name.startswith("_") and name not in ("__len__", "__bool__", "_assert"):
            raise self._unsupported(f"torch.{name}")
        result = function(*args, **kwargs)
        if any(isinstance(x, Tensor) for x in tree_flatten(result)[0]):
            raise self._unsupported(f"torch.{name}")
        return result

    def _current(self, x: Tensor) -> Tensor:
        """`x`, or what an in-place operation has made of it. Raises `Unsupported` for the result of an unseen operation."""
        while id(x) in self._replaced:
            x = self._replaced[id(x)]
        if id(x) in self._outdated:
            raise self._unsupported("a tensor that was changed in place through another view of it")
        if x.grad_fn is not None and id(x) not in self._live:
            raise self._unsupported(f"{x.grad_fn.name().removesuffix('Backward')}, which is no torch function")
        return x

    def _overwrite(self, old: Tensor, new: Any) -> None:
        """From now on `new` stands for `old`, and other views of its memory are unusable."""
        if not isinstance(new, Tensor) or new is old:
            return
        memory = old.untyped_storage().data_ptr()
        for x in [*self._live.values(), *self._gates.values()]:
            if x is not old and x is not new and x.untyped_storage().data_ptr() == memory:
                self._outdated[id(x)] = x
        self._replaced[id(old)] = new

    def _unsupported(self, what: str) -> Unsupported:
        return Unsupported(f"{what} (in {self.path[-1] or 'the network itself'})")


@contextmanager
def _watched(network: nn.Module, recorder: Recorder) -> Iterator[None]:
    """Inside the block the recorder knows which module runs, and layers with a rule of their own are steps."""
    with ExitStack() as stack:
        for name, module in network.named_modules():
            stack.callback(module.register_forward_pre_hook(partial(_enter, recorder, name)).remove)
            stack.callback(module.register_forward_hook(partial(_leave, recorder), always_call=True).remove)
            rule = LRP_RULES.of_layer(module)
            if rule is not None:
                own = module.__dict__.get("forward")
                module.__dict__["forward"] = partial(_run_layer, recorder, module, module.forward, rule)
                stack.callback(_restore, module, own)
        yield


def _enter(recorder: Recorder, name: str, module: nn.Module, _inputs: Any) -> None:
    recorder.path.append(name or type(module).__name__)


def _leave(recorder: Recorder, _module: nn.Module, _inputs: Any, _output: Any) -> None:
    recorder.path.pop()


def _restore(module: nn.Module, own: Any) -> None:
    del module.__dict__["forward"]
    if own is not None:
        module.__dict__["forward"] = own


def _run_layer(
    recorder: Recorder, module: nn.Module, forward: Callable[..., Any], rule: Rule, *args: Any, **kwargs: Any
) -> Any:
    """The forward of a layer with a rule of its own."""
    if rule.has("expand"):
        return rule.expand(module, *args, **kwargs)
    with torch._C.DisableTorchFunction():
        return _step_of_layer(recorder, module, forward, rule, args, kwargs)


def _step_of_layer(
    recorder: Recorder,
    module: nn.Module,
    forward: Callable[..., Any],
    rule: Rule,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Any:
    """Record a layer with a rule of its own as one step."""
    if not rule.has("surrogate"):
        return recorder.step(type(module).__name__, rule, forward, args, kwargs)
    result = recorder.step(type(module).__name__, rule, partial(rule.surrogate, module), args, kwargs)
    with torch.no_grad():
        right = forward(*args, **kwargs)
    if not torch.allclose(result, right, rtol=1e-3, atol=1e-3 * float(right.abs().max())):
        raise Unsupported(f"the rule of {type(module).__name__}, whose surrogate gives other values than the layer")
    return result


@cache
def operation(func: Callable[..., Any]) -> tuple[str, bool]:
    """Name of a torch function as rules are registered, and whether it writes into its first argument."""
    name = getattr(func, "__name__", type(func).__name__)
    if name == "__get__":
        name = getattr(getattr(func, "__self__", None), "__name__", name)
    if (getattr(func, "__module__", None) or "").startswith("torch._ops"):
        return str(func), False
    if name.startswith("__i") and name not in ("__int__", "__index__", "__iter__", "__invert__"):
        return name[3:-2], True
    if name in ("__getitem__", "__setitem__", "__rsub__", "__rdiv__", "__add__", "__mul__", "__radd__", "__rmul__"):
        plain = name.strip("_")
        return {"radd": "add", "rmul": "mul"}.get(plain, plain), False
    if name.endswith("_") and not name.startswith("_"):
        return name[:-1], True
    return name, False


@cache
def _signature(func: Callable[..., Any]) -> inspect.Signature | None:
    try:
        signature = inspect.signature(func)
    except (TypeError, ValueError):  # written in C
        return None
    return signature if "inplace" in signature.parameters else None


def _inplace_flag(
    func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[bool, tuple[Any, ...], dict[str, Any]] | None:
    """The value of the parameter `inplace` and the arguments with it unset; None if the function has none."""
    signature = _signature(func)
    if signature is None:
        return None
    bound = signature.bind(*args, **kwargs)
    written = bool(bound.arguments.get("inplace", False))
    bound.arguments["inplace"] = False
    return written, bound.args, bound.kwargs


def _keeps_images(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether the result's first dimension still runs over images, as far as the arguments tell."""
    x = args[0] if args and isinstance(args[0], Tensor) else None
    if name in PERMUTING:
        marks = torch.empty((2, *([1] * (x.ndim - 1))), device="meta") if x is not None else None
        moved = getattr(Tensor, name)
        if marks is None:
            return False
        result = moved(marks, *args[1:], **kwargs) if callable(moved) else getattr(marks, name)
        return bool(result.shape[0] == 2)
    if name == "getitem":
        first = args[1][0] if isinstance(args[1], tuple) and args[1] else args[1]
        return first is Ellipsis or (isinstance(first, slice) and first == slice(None))
    if name == "repeat":
        return args[1] == 1 if isinstance(args[1], int) else args[1][0] == 1
    if name == "einsum":
        terms, _, result = args[0].replace(" ", "").partition("->")
        return bool(result) and all(term[0] == result[0] for term in terms.split(",") if result[0] in term)
    if name in ALONG_DIMENSION:
        return _along(name, args, kwargs)
    return True


def _along(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether the dimension of an operation along one is known and not the images'."""
    place = {"split": 2, "chunk": 2, "flip": 1, "roll": 2, "concat": 1}.get(name, 1)
    default = {"stack": 0, "cat": 0, "concat": 0, "chunk": 0, "split": 0, "unbind": 0}.get(name)
    value = kwargs.get("dim", kwargs.get("dims", args[place] if len(args) > place else default))
    if value is None:
        return False
    first = args[0][0] if isinstance(args[0], tuple | list) else args[0]
    ndim = first.ndim + (name in ("stack", "unsqueeze"))
    return all(d % ndim != 0 for d in (value if isinstance(value, tuple | list) else (value,)))

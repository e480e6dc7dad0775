"""Sends the logit back through the recorded steps, and draws up the certificate on the way."""
# N images, C channels, H height, W width, L outputs

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from cxr_ray.errors import UserError
from cxr_ray.explanation.lrp.affine import fold_batch_norms
from cxr_ray.explanation.lrp.recorder import Tape, record
from cxr_ray.explanation.lrp.rules import BatchMoved, Share, Step
from cxr_ray.explanation.lrp.scheme import Assignment, Scheme
from cxr_ray.explanation.lrp.sums import total
from cxr_ray.explanation.methods import Attribution, Certificate

TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3}
"""By dtype. The totals may be off by this share of their largest term, a layer by this share of the absolute relevance at it."""
COARSE_TOLERANCE = 0.05
"""Of half precision, which is summed in float32."""
IDENTITY = "relevance + bias + clip + epsilon = logit, and so for every layer: in + bias + clip + epsilon = out"


def explain(
    network: nn.Module, inputs: Tensor, targets: Tensor, scheme: Scheme, *, identity: str = IDENTITY
) -> Attribution:
    """Relevance maps of the logits `targets` [N] of `network`, in eval mode, at `inputs` [N, C, H, W], by the scheme.

    Raises `Unsupported` where an operation has no rule, and `UserError` for logits that are not finite."""
    try:
        tapes = [record(network, inputs)]
    except BatchMoved:
        return _join(
            [
                explain(network, inputs[i : i + 1], targets[i : i + 1], scheme, identity=identity)
                for i in range(len(inputs))
            ]
        )
    return _propagate(network, tapes.pop(), targets, scheme, identity)


def _propagate(network: nn.Module, tape: Tape, targets: Tensor, scheme: Scheme, identity: str) -> Attribution:
    """Relevance from the logits of one tape, whose steps are used up."""
    images = len(targets)
    logits = tape.logits.detach().gather(1, targets[:, None]).squeeze(1)
    _check_finite(network, logits)
    steps = fold_batch_norms(tape.steps)
    tape.steps.clear()
    flow = _Flow(Assignment(scheme, steps, tape.image), images)
    start = torch.zeros_like(tape.logits).scatter_(1, targets[:, None], 1.0)
    flow.add(tape.logits, start)
    while steps:
        flow.back(steps.pop())
    relevance = flow.relevance_of(tape.image)
    maps = relevance.sum(1) if relevance.ndim == 4 else relevance
    return Attribution(maps, logits, flow.certificate(logits, total(relevance, images), identity))


class Amount(NamedTuple):
    """Relevance of a tensor, per image [N]."""

    sum: Tensor
    magnitude: Tensor
    """Sum of absolute values: what rounding is relative to."""


class _Flow:
    """Coefficients and relevance of tensors, while the steps are gone through from the output to the input."""

    def __init__(self, assignment: Assignment, images: int) -> None:
        self.rows: list[dict[str, Any]] = []
        self._assignment = assignment
        self._images = images
        self._coefficients: dict[int, Tensor] = {}
        self._direct: dict[int, Tensor] = {}
        self._arrived: dict[int, Tensor] = {}

    def add(self, x: Tensor, c: Tensor) -> Amount:
        """Add a coefficient to a tensor; returns its relevance."""
        key = id(x)
        self._coefficients[key] = self._coefficients[key] + c if key in self._coefficients else c
        return self._arrive(key, c * x.detach())

    def back(self, step: Step) -> None:
        """Divide the relevance of a step's outputs. Steps whose outputs have none are skipped."""
        found = [self._coefficients.pop(id(x), None) for x in step.outputs]
        if all(c is None for c in found):
            return
        out = sum(self._arrived.pop(id(x)) for x in step.outputs if id(x) in self._arrived)
        coefficients = [torch.zeros_like(x) if c is None else c for c, x in zip(found, step.outputs, strict=True)]
        share: Share = step.rule.back(step, coefficients, self._assignment, self._images)
        if share.relevance is not None:
            key = id(step.inputs[0])
            self._direct[key] = self._direct[key] + share.relevance if key in self._direct else share.relevance
            parts = [self._arrive(key, share.relevance)]
        else:
            parts = [self.add(x, c) for x, c in zip(step.inputs, share.coefficients, strict=True)]
        inward = torch.stack([part.sum for part in parts]).sum(0)
        magnitude = torch.stack([part.magnitude for part in parts]).sum(0)
        absorbed = {name: torch.zeros_like(inward) + getattr(share, name) for name in ("bias", "clip", "epsilon")}
        self.rows.append(
            {
                "layer": step.layer,
                "kind": step.kind,
                "relevance_out": out,
                "relevance_in": inward,
                "magnitude": magnitude,
                **absorbed,
            }
        )

    def relevance_of(self, x: Tensor) -> Tensor:
        """Relevance of a tensor, in its shape."""
        c, direct = self._coefficients.get(id(x)), self._direct.get(id(x))
        relevance = torch.zeros_like(x) if c is None else c * x
        return (relevance if direct is None else relevance + direct).detach()

    def certificate(self, logits: Tensor, relevance: Tensor, identity: str) -> Certificate:
        """The totals and whether they, and those of every layer, add up."""
        tolerance = TOLERANCE.get(logits.dtype, COARSE_TOLERANCE)
        sums = {
            name: sum((row[name] for row in self.rows), torch.zeros_like(relevance))
            for name in ("bias", "clip", "epsilon")
        }
        holds = _adds_up(logits.to(relevance.dtype), [relevance, *sums.values()], tolerance)
        for row in self.rows:
            parts = [row["relevance_in"], row["bias"], row["clip"], row["epsilon"]]
            holds = holds & _adds_up(row["relevance_out"], parts, tolerance, row["magnitude"])
        return Certificate(logits, relevance, **sums, adds_up=holds, identity=identity, layers=self.rows)

    def _arrive(self, key: int, relevance: Tensor) -> Amount:
        """Count relevance at a tensor."""
        if relevance.dtype in (torch.float16, torch.bfloat16):
            relevance = relevance.float()
        flat = relevance.reshape(self._images, -1)
        amount = Amount(flat.sum(1), torch.linalg.vector_norm(flat, 1, dim=1))
        self._arrived[key] = self._arrived[key] + amount.sum if key in self._arrived else amount.sum
        return amount


def _adds_up(whole: Tensor, parts: list[Tensor], tolerance: float, magnitude: Tensor | float = 0.0) -> Tensor:
    """[N], whether the parts sum to the whole within `tolerance` of the largest of them or of `magnitude`. Not finite is no."""
    largest = torch.stack([whole, *parts]).abs().amax(0) + magnitude
    return (whole - torch.stack(parts).sum(0)).abs() <= tolerance * largest


def _check_finite(network: nn.Module, logits: Tensor) -> None:
    """Raises `UserError` for logits that are not finite, with the first weights that are not."""
    bad = torch.nonzero(~torch.isfinite(logits)).flatten().tolist()
    if bad:
        tensors = [*network.named_parameters(), *network.named_buffers()]
        broken = next(
            (name for name, x in tensors if x.is_floating_point() and not bool(torch.isfinite(x).all())), None
        )
        cause = f"its {broken} holds NaN or infinity: take another epoch's weights" if broken else "check its pixels"
        raise UserError(f"the logit of image {bad[0]} of the batch is {float(logits[bad[0]])}; {cause}")


def _join(parts: list[Attribution]) -> Attribution:
    """One attribution of a batch from those of its images."""
    certificates = [part.certificate for part in parts if part.certificate is not None]
    values = {
        name: torch.cat([getattr(one, name) for one in certificates])
        for name in ("logit", "relevance", "bias", "clip", "epsilon", "adds_up")
    }
    rows = []
    for same in zip(*(one.layers for one in certificates), strict=True):
        merged = {
            key: torch.cat([row[key] for row in same]) for key, value in same[0].items() if isinstance(value, Tensor)
        }
        rows.append({**same[0], **merged})
    certificate = Certificate(**values, identity=certificates[0].identity, layers=rows)
    return Attribution(torch.cat([p.maps for p in parts]), torch.cat([p.logits for p in parts]), certificate)

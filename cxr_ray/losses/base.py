"""Losses: masked, weighted sums over the known cells of a batch. Averaging over the batch and ranks: training/learner.py.

A loss has `elements` (the loss per cell), `total` (their sum) and `cells` (the number of known cells in that sum, computed from
the truth only, so that every rank knows it for the global batch). Losses that compare images with each other: auc_margin.py.
"""
# N images, L labels or classes

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from cxr_ray import config
from cxr_ray.errors import UserError
from cxr_ray.registry import LOSSES, Options

Truth = Tensor | npt.NDArray[Any]
AUTO = {"multilabel": "bce", "binary": "bce", "multiclass": "cross_entropy"}


RENAMED_METHODS = {"of_known": "cell_loss"}
"""Methods of 0.1.0 that a user's loss may override -> their names now."""


class Loss(ABC):
    """A loss for one training; made by `build`, or by a registered name with (weight_L, label_smoothing, options)."""

    tasks: ClassVar[tuple[str, ...]] = ("multilabel", "binary", "multiclass")
    """Tasks that it supports."""
    whole_batch: ClassVar[bool] = False
    """Whether it compares images with each other: then `total` gathers the logits of all ranks, micro-batches are not possible,
    and targets must be 0 or 1, not between."""

    def __init_subclass__(cls) -> None:
        """Raises `UserError` for a loss that overrides a method under its name of 0.1.0: it would be ignored."""
        super().__init_subclass__()
        for old, new in RENAMED_METHODS.items():
            if old in cls.__dict__:
                raise UserError(f"the loss {cls.__name__} defines {old}(), which is now {new}(); rename the method")

    def __init__(self, *, weight_L: npt.ArrayLike | Tensor | None, label_smoothing: float, options: Options) -> None:
        weight = None if weight_L is None else torch.as_tensor(np.asarray(weight_L), dtype=torch.float32)
        self._weight = weight
        self.label_smoothing = label_smoothing
        self.options = options

    @abstractmethod
    def elements(self, logits_NL: Tensor, truth_NL: Tensor) -> Tensor:
        """The loss of each cell [N, L], or of each row [N, 1], in at least fp32; 0 with zero gradient where unknown."""

    def total(self, logits_NL: Tensor, truth_NL: Tensor) -> Tensor:
        """The loss summed over known cells, a scalar; 0 with zero gradients if nothing is known."""
        return self.elements(logits_NL, truth_NL).sum()

    @abstractmethod
    def cells(self, truth_NL: Truth) -> int:
        """Number of known cells in `total`: the divisor of `reduction: mean`. Takes numpy or torch."""

    def weight(self, like: Tensor) -> Tensor | None:
        """The weight of each label with the device and dtype of `like`; converted once."""
        if self._weight is not None and (self._weight.device, self._weight.dtype) != (like.device, like.dtype):
            self._weight = self._weight.to(like.device, like.dtype)
        return self._weight


@LOSSES.register("bce")
class BinaryCrossEntropy(Loss):
    """Binary cross-entropy of each label with its logit, masked where the label is unknown (multilabel, binary).

    cell = -(w y log p + (1 - y) log(1 - p)), p = sigmoid(logit), w the label's weight of positives; with label smoothing s
    the target is y (1 - s) + s / 2. A cell is known if the truth is not NaN."""

    tasks = ("multilabel", "binary")

    def elements(self, logits_NL: Tensor, truth_NL: Tensor) -> Tensor:
        """The loss of each cell [N, L]."""
        known_NL = known(truth_NL)
        # Masked before and after the loss: 0 x NaN is NaN, in values and in gradients.
        z_NL = torch.where(known_NL, at_least_fp32(logits_NL), 0.0)
        y_NL = torch.where(known_NL, truth_NL, 0.0).to(z_NL.dtype)
        if self.label_smoothing:
            y_NL = y_NL * (1.0 - self.label_smoothing) + self.label_smoothing / 2.0
        return torch.where(known_NL, self.cell_loss(z_NL, y_NL), 0.0)

    def cell_loss(self, z_NL: Tensor, y_NL: Tensor) -> Tensor:
        """The loss of each cell [N, L] from its logit and its target in [0, 1]. It is linear in the target: mixed targets give
        the mixture of the losses."""
        return F.binary_cross_entropy_with_logits(z_NL, y_NL, pos_weight=self.weight(z_NL), reduction="none")

    def cells(self, truth_NL: Truth) -> int:
        """Cells that are not NaN."""
        return int(known(truth_NL).sum())


class FocalOptions(Options):
    """Weighting of cells."""

    gamma: float = Field(default=2.0, ge=0.0)
    """Correct cells count less, by (1 - p of the truth) ** gamma; 0 is cross-entropy."""
    alpha: float | None = Field(default=0.25, ge=0.0, le=1.0)
    """Weight of positives; negatives have 1 - alpha. null: both have 1."""


@LOSSES.register("focal", FocalOptions)
class Focal(BinaryCrossEntropy):
    """Focal loss of each label (Lin et al. 2017, equation 5), masked where the label is unknown (multilabel, binary).

    cell = -(w a y (1 - p)^g log p + (1 - a) (1 - y) p^g log(1 - p)), p = sigmoid(logit), w the label's weight of
    positives; gamma g = 2 and alpha a = 0.25 as in the paper. Mask and label smoothing as in bce."""

    options: FocalOptions

    def cell_loss(self, z_NL: Tensor, y_NL: Tensor) -> Tensor:
        """See the class docstring."""
        gamma, alpha = self.options.gamma, self.options.alpha
        a, b = (1.0, 1.0) if alpha is None else (alpha, 1.0 - alpha)
        log_p, log_q = F.logsigmoid(z_NL), F.logsigmoid(-z_NL)
        # exp(g log q), not q ** g: q is 0 for extreme logits, where a power below 1 has no finite gradient.
        positive_NL = -a * torch.exp(gamma * log_q) * log_p * y_NL
        weight_L = self.weight(z_NL)
        if weight_L is not None:
            positive_NL = positive_NL * weight_L
        return positive_NL - b * torch.exp(gamma * log_p) * log_q * (1.0 - y_NL)


class AsymmetricOptions(Options):
    """Focusing of positives and negatives; the defaults are those of the paper."""

    gamma_positive: float = Field(default=0.0, ge=0.0)
    """Focusing parameter of positives."""
    gamma_negative: float = Field(default=4.0, ge=0.0)
    """Focusing parameter of negatives."""
    margin: float = Field(default=0.05, ge=0.0, lt=1.0)
    """Negatives with a probability below it have no loss."""


@LOSSES.register("asymmetric", AsymmetricOptions)
class Asymmetric(BinaryCrossEntropy):
    """Asymmetric loss of each label (Ridnik et al. 2021, equation 7), masked where the label is unknown (multilabel, binary).

    cell = -(w y (1 - p)^g+ log p + (1 - y) m^g- log(1 - m)), p = sigmoid(logit), m = max(p - margin, 0), w the label's
    weight of positives. The focusing factors have gradients too. Mask and label smoothing as in bce."""

    options: AsymmetricOptions

    def cell_loss(self, z_NL: Tensor, y_NL: Tensor) -> Tensor:
        """See the class docstring."""
        options, log_q = self.options, F.logsigmoid(-z_NL)
        positive_NL = -torch.exp(options.gamma_positive * log_q) * F.logsigmoid(z_NL) * y_NL
        weight_L = self.weight(z_NL)
        if weight_L is not None:
            positive_NL = positive_NL * weight_L
        shifted_NL = torch.sigmoid(z_NL) - options.margin
        above_NL = shifted_NL > 0.0
        m_NL = torch.where(above_NL, shifted_NL, 0.5)  # 0.5 is arbitrary: those cells are masked again below
        # log(1 - m) = log(1 - p + margin); without a margin this form rounds to log 0 for extreme logits.
        log_rest = torch.log(torch.exp(log_q) + options.margin) if options.margin else log_q
        negative_NL = torch.where(above_NL, -(m_NL**options.gamma_negative) * log_rest, 0.0)
        return positive_NL + negative_NL * (1.0 - y_NL)


@LOSSES.register("cross_entropy")
class CrossEntropy(Loss):
    """Cross-entropy over the classes of each image, masked where its class is unknown (multiclass).

    The truth y is one-hot or a mixture of two such rows; a row with a NaN or without a positive value has no known class. With
    class weights w and label smoothing s, as torch.nn.CrossEntropyLoss of probabilities: row = -sum over classes c of
    w_c ((1 - s) y_c + s / L) log p_c, p = softmax(logits). Its cells are rows: weights are not part of the divisor, so that the
    gradient of an image does not depend on its batch."""

    tasks = ("multiclass",)

    def elements(self, logits_NL: Tensor, truth_NL: Tensor) -> Tensor:
        """The loss of each row [N, 1]."""
        known_N1 = _class_is_known(truth_NL)[:, None]
        z_NL = torch.where(known_N1, at_least_fp32(logits_NL), 0.0)
        y_NL = torch.where(known_N1, truth_NL, 0.0).to(z_NL.dtype)
        loss_N = F.cross_entropy(
            z_NL, y_NL, weight=self.weight(z_NL), reduction="none", label_smoothing=self.label_smoothing
        )
        return torch.where(known_N1, loss_N[:, None], 0.0)

    def cells(self, truth_NL: Truth) -> int:
        """Rows whose class is known."""
        return int(_class_is_known(truth_NL).sum())


def probabilities(logits_NL: Tensor, *, task: str) -> Tensor:
    """Probabilities [N, L] of logits, in at least fp32: softmax over the classes for multiclass, otherwise the sigmoid of each."""
    logits_NL = at_least_fp32(logits_NL)
    return torch.softmax(logits_NL, dim=1) if task == "multiclass" else torch.sigmoid(logits_NL)


def build(
    loss: config.Loss,
    *,
    task: str,
    weight_L: npt.ArrayLike | Tensor | None = None,
    micro_batches: bool = False,
    mixed: bool = False,
) -> Loss:
    """The loss of the configuration for a task; `auto` is bce for labels and cross_entropy for classes.

    `weight_L` weights the positives of each label (bce) or each class (cross_entropy). `micro_batches`: a rank's share of a
    batch is split further; `mixed`: targets are mixed. Raises `UserError` for an unknown loss, and for one that
    does not support the task or these settings."""
    name = AUTO[task] if loss.name == "auto" else loss.name
    entry = LOSSES[name]
    tasks = getattr(entry.make, "tasks", Loss.tasks)
    if task not in tasks:
        raise UserError(
            f"loss {name} supports {' and '.join(tasks)}, and the task is {task}: set loss.name to auto or to {AUTO[task]}"
        )
    if getattr(entry.make, "whole_batch", False) and (mixed or micro_batches):
        conflict, fix = (
            ("mixed targets", "augment.mixup to 0") if mixed else ("micro-batches", "train.micro_batch to null")
        )
        raise UserError(
            f"loss {name} compares the images of a batch with each other, which does not work with {conflict}: set {fix}"
        )
    made: Loss = entry.make(
        weight_L=weight_L, label_smoothing=loss.label_smoothing, options=entry.parse(loss.options, where="loss.options")
    )
    return made


def at_least_fp32(logits_NL: Tensor) -> Tensor:
    """The logits in fp32 if they are in half precision, else unchanged."""
    return logits_NL.float() if logits_NL.dtype in (torch.float16, torch.bfloat16) else logits_NL


def known(truth_NL: Any) -> Any:
    """Boolean [N, L], numpy or torch like the truth: only NaN differs from itself."""
    return truth_NL == truth_NL


def _class_is_known(truth_NL: Any) -> Any:
    """Boolean [N], numpy or torch like the truth: whether no cell of a row is NaN and one is positive."""
    return known(truth_NL).all(1) & (truth_NL > 0).any(1)

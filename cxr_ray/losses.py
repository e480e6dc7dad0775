"""Losses: masked, weighted sums over the known cells of a batch. Dividing and scaling over ranks is the engine's.

A loss gives `elements` (each cell's share), `total` (their sum), `cells` (how many known cells that sum is over, from
the truth alone, so that every rank can know the whole batch's) and `probabilities` (what the logits mean).
"""
# N images, L labels or classes

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from cxr_ray import config
from cxr_ray.errors import UserError
from cxr_ray.registry import LOSSES, Options

Truth = Tensor | npt.NDArray[Any]
AUTO = {"multilabel": "bce", "binary": "bce", "multiclass": "cross_entropy"}


class Loss(ABC):
    """A loss for one training; made by `build`, or by a registered name with (weight_L, label_smoothing, options)."""

    tasks: ClassVar[tuple[str, ...]] = ("multilabel", "binary", "multiclass")
    """Tasks that it can serve."""

    def __init__(self, *, weight_L: npt.ArrayLike | Tensor | None, label_smoothing: float, options: Options) -> None:
        weight = None if weight_L is None else torch.as_tensor(np.asarray(weight_L), dtype=torch.float32)
        self._weight = weight
        self.label_smoothing = label_smoothing
        self.options = options

    @abstractmethod
    def elements(self, logits_NL: Tensor, truth_NL: Tensor) -> Tensor:
        """The loss of each cell [N, L], or of each row [N, 1], in at least fp32; 0 with zero gradients where unknown."""

    def total(self, logits_NL: Tensor, truth_NL: Tensor) -> Tensor:
        """The loss summed over known cells: a scalar; 0 with zero gradients where nothing is known."""
        return self.elements(logits_NL, truth_NL).sum()

    @abstractmethod
    def cells(self, truth_NL: Truth) -> int:
        """How many known cells `total` sums over: what `reduction: mean` divides by. Takes numpy or torch."""

    @abstractmethod
    def probabilities(self, logits_NL: Tensor) -> Tensor:
        """[N, L] probabilities of at least fp32."""

    def weight(self, like: Tensor) -> Tensor | None:
        """The weight of each label on the device and in the type of `like`; moved once."""
        if self._weight is not None and (self._weight.device, self._weight.dtype) != (like.device, like.dtype):
            self._weight = self._weight.to(like.device, like.dtype)
        return self._weight


@LOSSES.register("bce")
class BinaryCrossEntropy(Loss):
    """Binary cross-entropy of each label with its logit, masked where a label is unknown (multilabel, binary).

    cell = -(w y log p + (1 - y) log(1 - p)), p = sigmoid(logit), w the label's positivity weight; with label smoothing s
    the target y is y (1 - s) + s / 2. A cell is known where the truth is not NaN."""

    tasks = ("multilabel", "binary")

    def elements(self, logits_NL: Tensor, truth_NL: Tensor) -> Tensor:
        """The loss of each cell [N, L]."""
        logits_NL = _at_least_fp32(logits_NL)
        known_NL = _known(truth_NL)
        # Masked before the loss and after it: 0 x NaN is NaN, in values and in gradients.
        y_NL = torch.where(known_NL, truth_NL, 0.0).to(logits_NL.dtype)
        logits_NL = torch.where(known_NL, logits_NL, 0.0)
        if self.label_smoothing:
            y_NL = y_NL * (1.0 - self.label_smoothing) + self.label_smoothing / 2.0
        loss_NL = F.binary_cross_entropy_with_logits(
            logits_NL, y_NL, pos_weight=self.weight(logits_NL), reduction="none"
        )
        return torch.where(known_NL, loss_NL, 0.0)

    def cells(self, truth_NL: Truth) -> int:
        """Cells that are not NaN."""
        return int(_known(truth_NL).sum())

    def probabilities(self, logits_NL: Tensor) -> Tensor:
        """Sigmoid of each logit."""
        return torch.sigmoid(_at_least_fp32(logits_NL))


@LOSSES.register("cross_entropy")
class CrossEntropy(Loss):
    """Cross-entropy over the classes of each image, left out where its class is unknown (multiclass).

    The truth is one-hot; a row with a NaN or without a 1 has no known class. With class weights w and label smoothing s,
    as torch.nn.CrossEntropyLoss: row = -(1 - s) w_y log p_y - (s / L) sum over classes c of w_c log p_c, p = softmax(logits).
    Its cells are rows: weights do not enter the divisor, so that the gradient of an image does not hang on its batch."""

    tasks = ("multiclass",)

    def elements(self, logits_NL: Tensor, truth_NL: Tensor) -> Tensor:
        """The loss of each row [N, 1]."""
        logits_NL = _at_least_fp32(logits_NL)
        known_N = _class_known(truth_NL)
        class_N = torch.where(known_N, torch.nan_to_num(truth_NL).argmax(dim=1), -100)
        logits_NL = torch.where(known_N[:, None], logits_NL, 0.0)
        loss_N = F.cross_entropy(
            logits_NL,
            class_N,
            weight=self.weight(logits_NL),
            ignore_index=-100,
            reduction="none",
            label_smoothing=self.label_smoothing,
        )
        return loss_N[:, None]

    def cells(self, truth_NL: Truth) -> int:
        """Rows whose class is known."""
        return int(_class_known(truth_NL).sum())

    def probabilities(self, logits_NL: Tensor) -> Tensor:
        """Softmax over the classes."""
        return torch.softmax(_at_least_fp32(logits_NL), dim=1)


def build(loss: config.Loss, *, task: str, weight_L: npt.ArrayLike | Tensor | None = None) -> Loss:
    """The loss that a config asks for, for a task; `auto` is bce for labels and cross_entropy for classes.

    `weight_L` weighs the positives of each label (bce) or each class (cross_entropy). Raises `UserError` for an unknown
    loss and for one that does not serve the task."""
    name = AUTO[task] if loss.name == "auto" else loss.name
    entry = LOSSES[name]
    tasks = getattr(entry.make, "tasks", Loss.tasks)
    if task not in tasks:
        raise UserError(
            f"loss {name} serves {' and '.join(tasks)}, and the task is {task}: set loss.name to auto or to {AUTO[task]}"
        )
    made: Loss = entry.make(
        weight_L=weight_L, label_smoothing=loss.label_smoothing, options=entry.parse(loss.options, where="loss.options")
    )
    return made


def _at_least_fp32(logits_NL: Tensor) -> Tensor:
    return logits_NL.float() if logits_NL.dtype in (torch.float16, torch.bfloat16) else logits_NL


def _known(truth_NL: Any) -> Any:
    """Boolean [N, L], numpy or torch as the truth is: NaN alone is not equal to itself."""
    return truth_NL == truth_NL


def _class_known(truth_NL: Any) -> Any:
    """Boolean [N], numpy or torch as the truth is: no cell is NaN and one is positive."""
    return _known(truth_NL).all(1) & (truth_NL > 0).any(1)

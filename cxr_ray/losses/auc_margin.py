"""AUC margin loss, which compares the images of a global batch with each other: it gathers the logits of all ranks."""
# N images of this rank, M images of all ranks, L labels

import torch
import torch.distributed as dist
from pydantic import Field
from torch import Tensor

from cxr_ray.errors import UserError
from cxr_ray.losses.base import Loss, Truth, at_least_fp32, known
from cxr_ray.registry import LOSSES, Options
from cxr_ray.runtime import distributed


class AucMarginOptions(Options):
    """Margin between positives and negatives."""

    margin: float = Field(default=1.0, gt=0.0)
    """Target difference between the mean probabilities of positives and of negatives (Yuan et al. 2021: 1)."""


@LOSSES.register("auc_margin", AucMarginOptions)
class AucMargin(Loss):
    """AUC margin loss of each label (Yuan et al. 2021), over the known cells of the global batch (multilabel, binary).

    With h = sigmoid(logit), the paper minimises over a, b and maximises over c >= 0, for each label,
    E[(h - a)^2 | positive] + E[(h - b)^2 | negative] + 2 c (margin - E[h | positive] + E[h | negative]) - c^2. Within a batch
    this has a closed form, which is minimised here: var(h | positive) + var(h | negative) + max(0, margin -
    mean(h | positive) + mean(h | negative))^2, variances with divisor n. It needs no extra variables and no special optimiser
    (the paper's PESG carries a, b, c from batch to batch), but batches with several positives of each label.
    A label without a positive or a negative in the batch has no loss. Each label is weighted by its known cells."""

    tasks = ("multilabel", "binary")
    whole_batch = True
    options: AucMarginOptions

    def __init__(self, *, weight_L: Truth | None, label_smoothing: float, options: Options) -> None:
        super().__init__(weight_L=weight_L, label_smoothing=label_smoothing, options=options)
        if label_smoothing:
            raise UserError(
                "loss auc_margin ranks positives above negatives and cannot smooth labels: set loss.label_smoothing to 0"
            )
        if self._weight is not None and not bool((self._weight == 1.0).all()):
            raise UserError(
                "loss auc_margin weights positives and negatives equally, however few: set loss.pos_weight_power to 0"
            )

    def elements(self, logits_NL: Tensor, truth_NL: Tensor) -> Tensor:
        """Each cell's share [N, L] of the loss of these images only; a label's shares sum to its loss times its known cells."""
        known_NL = known(truth_NL)
        h_NL = torch.sigmoid(torch.where(known_NL, at_least_fp32(logits_NL), 0.0))
        positive_NL, negative_NL = (truth_NL > 0.5).to(h_NL.dtype), (truth_NL <= 0.5).to(h_NL.dtype)  # false where NaN
        p_L, n_L = positive_NL.sum(0), negative_NL.sum(0)
        share_p_NL, share_n_NL = positive_NL / p_L.clamp_min(1.0), negative_NL / n_L.clamp_min(1.0)
        mean_p_L, mean_n_L = (h_NL * share_p_NL).sum(0), (h_NL * share_n_NL).sum(0)
        variance_NL = share_p_NL * (h_NL - mean_p_L).square() + share_n_NL * (h_NL - mean_n_L).square()
        shortfall_L = (self.options.margin - mean_p_L + mean_n_L).clamp_min(0.0).square()
        cells_NL = variance_NL * (p_L + n_L) + (positive_NL + negative_NL) * shortfall_L
        return cells_NL * ((p_L > 0) & (n_L > 0))

    def total(self, logits_NL: Tensor, truth_NL: Tensor) -> Tensor:
        """The loss of the global batch times its cells, with gradients to this rank's logits. Every rank calls it.

        The gradients of all ranks sum to those of a single rank with all images."""
        logits_NL = at_least_fp32(logits_NL)
        if not distributed.is_distributed():
            return self.elements(logits_NL, truth_NL).sum()
        rank = torch.full((len(logits_NL), 1), dist.get_rank(), device=logits_NL.device)
        mine_M1 = distributed.gather_rows(rank) == dist.get_rank()
        logits_ML = distributed.gather_rows(logits_NL.detach())
        logits_ML = logits_ML.masked_scatter(mine_M1.expand_as(logits_ML), logits_NL)
        return self.elements(logits_ML, distributed.gather_rows(truth_NL)).sum()

    def cells(self, truth_NL: Truth) -> int:
        """Known cells of the labels with at least one positive and one negative."""
        truth = torch.as_tensor(truth_NL)
        both_L = (truth > 0.5).any(0) & (truth <= 0.5).any(0)
        return int((known(truth) & both_L).sum())

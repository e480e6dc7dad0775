"""Which division a layer gets."""

import torch
from torch import nn

from cxr_ray.explanation.lrp.affine import AffineRule, fold_batch_norms
from cxr_ray.explanation.lrp.divisions import AlphaBeta, Epsilon, Flat
from cxr_ray.explanation.lrp.recorder import record
from cxr_ray.explanation.lrp.scheme import Assignment, Scheme
from tests.explanation.lrp.networks import SkipNet, images, randomised


def test_divisions_by_kind_depth_and_place() -> None:
    network = randomised(SkipNet(1, 2, 2), 0)
    assert isinstance(network, nn.Module)
    tape = record(network, images(1, 1, 1, 4, 4))
    steps = fold_batch_norms(tape.steps)
    dense, lower, first = Epsilon(0.1), AlphaBeta(1.0, 0.0), Flat()
    assignment = Assignment(Scheme(dense, lower, 0.1, first, lower=0.67), steps, tape.image)
    found = {step.layer: assignment.division(step) for step in steps if isinstance(step.rule, AffineRule)}
    assert found == {"conv1": first, "conv2": lower, "side": dense, "head": dense}
    assert assignment.epsilon == 0.1 and torch.is_tensor(tape.logits)

"""Pooled features of a classifier: what its head sees."""
# N images, H height, W width, D features, L outputs

import torch
from torch import Tensor, nn

from cxr_ray.models.classifier import Classifier, head_logits
from cxr_ray.models.heads import head_name


def logits_and_features(model: Classifier, images_NHW: Tensor) -> tuple[Tensor, Tensor]:
    """Logits [N, L] and pooled features float32 [N, D] of gray images [N, H, W], in one pass; `model` should be in eval mode.

    Features are the input of the head, so that a linear head of them is the model's own. Maps [N, D, H', W'] (the head of
    SqueezeNets is a 1 x 1 convolution before the pooling) are averaged over their pixels. Raises `UserError` if no layer can be
    identified as the head."""
    seen: list[Tensor] = []
    head = model.backbone.get_submodule(head_name(model.backbone, model.spec.outputs))
    hook = head.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
    try:
        logits = head_logits(model(images_NHW))[0]
    finally:
        hook.remove()
    if not seen:  # an empty batch never reaches the head
        return logits, logits.new_zeros((0, feature_count(model)), dtype=torch.float32)
    features = seen[-1].float()
    if features.ndim == 4:
        features = features.mean(dim=(2, 3))
    return logits, features.flatten(1)


def feature_count(model: Classifier) -> int:
    """D, the number of pooled features of `model`. Raises `UserError` if no layer can be identified as the head."""
    head = model.backbone.get_submodule(head_name(model.backbone, model.spec.outputs))
    if isinstance(head, nn.Linear):
        return head.in_features
    assert isinstance(head, nn.Conv2d)
    return head.in_channels

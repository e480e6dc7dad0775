"""Pooled features of a classifier, which its head sees, and other heads on them."""
# N images, H height, W width, D features, L outputs

from dataclasses import replace

import torch
from torch import Tensor, nn

from cxr_ray.errors import UserError
from cxr_ray.models.classifier import Classifier, head_logits
from cxr_ray.models.factory import rebuild
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


def with_head(model: Classifier, weight_LD: Tensor, bias_L: Tensor) -> Classifier:
    """`model` with a linear head of its pooled features in place of its own: weight [L, D], bias [L]. In eval mode, on the CPU.

    Raises `UserError` if no layer can be identified as the head."""
    outputs = len(bias_L)
    made = rebuild(replace(model.spec, outputs=outputs))
    own, tensors = made.state_dict(), model.state_dict()
    head = f"backbone.{head_name(made.backbone, outputs)}"
    if f"{head}.bias" not in own:
        raise UserError(f"{model.spec.name} has a head without a bias, so no other head can take its place")
    new = {f"{head}.weight": weight_LD.reshape(own[f"{head}.weight"].shape), f"{head}.bias": bias_L}
    # Auxiliary heads have other sizes; they only work in a training.
    kept = {name: value for name, value in tensors.items() if own[name].shape == value.shape}
    made.load_state_dict({**own, **kept, **new})
    return made

"""Networks without memory for their weights: names and shapes only."""

import torch


class Skeleton(torch.overrides.TorchFunctionMode):
    """Inside the block, layers are built on torch's meta device, without memory for their weights.

    `torch.device("meta")` would do for most networks, but RegNet computes its widths with tensors in its constructor. So only
    `torch.empty`, which allocates the weights of layers, is redirected. Call `.to("meta")` on the network afterwards."""

    def __torch_function__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        """Redirects `torch.empty`."""
        kwargs = dict(kwargs or {})
        if func is torch.empty:
            kwargs["device"] = "meta"
        return func(*args, **kwargs)

"""First weights of a network: none, torchvision's of ImageNet, a file, another run. Checkpoints of a run are checkpoints.py.

A file is fitted to the network: colour kernels are summed for a gray stem, a head of another size is left out, position
embeddings of a vision transformer follow the image size. Anything else that does not fit is an error that names it.
"""

import pickle
import re
import socket
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlparse

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from cxr_ray.errors import UserError
from cxr_ray.models.heads import head_name

CONNECT_TIMEOUT_S = 20.0
# What published files call otherwise than torchvision's modules do today (torchvision renames them while it loads).
RENAMES = (
    (re.compile(r"(denselayer\d+\.(?:norm|relu|conv))\.([12])\."), r"\1\2."),
    (re.compile(r"\.mlp\.linear_1\."), ".mlp.0."),
    (re.compile(r"\.mlp\.linear_2\."), ".mlp.3."),
)
# Auxiliary heads of GoogLeNet and Inception: each is taken whole or, where it is not in both or does not fit, not at all.
AUX_PREFIXES = ("aux1.", "aux2.", "AuxLogits.")
MODEL_FILE = "model.safetensors"
"""What holds the weights in the folder of a run, and of a checkpoint."""


def load(network: nn.Module, source: str, *, name: str, outputs: int) -> list[str]:
    """Load `source` (none, imagenet, the path of a file, or the folder of a run) into `network` in place; returns the keys whose tensors it did not take.

    `name` is the model's registered name, `outputs` the size of its head. Raises `UserError` where the weights cannot
    be had or do not fit."""
    if source == "none":
        return []
    if source == "imagenet":
        return fit(network, _imagenet(name), said="torchvision's ImageNet weights", name=name, outputs=outputs)
    return fit(network, read(Path(source)), said=source, name=name, outputs=outputs)


def read(path: Path) -> dict[str, Tensor]:
    """The tensors of a `.safetensors` file, of the run whose folder `path` is, or of a torch file read without running code
    in it. Raises `UserError`."""
    if path.is_dir() and not (path / MODEL_FILE).is_file():
        said = "the run has no model yet" if (path / "run.json").exists() else "no folder of a run"
        raise UserError(
            f"model.weights: {path} holds no {MODEL_FILE} ({said}); give a finished run, or a file of weights"
        )
    if path.is_dir():
        path = path / MODEL_FILE
    if not path.is_file():
        raise UserError(
            f"model.weights: there is no file {path}; give none, imagenet, the path of a .pth or .safetensors file, or a run"
        )
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        body = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "weights_only" in str(error) or "Unsupported" in str(error):
            raise UserError(
                f"model.weights: {path} holds a pickle with more than tensors in it, which could run code and is not read: "
                "save its state_dict() alone, best as .safetensors"
            ) from error
        raise UserError(f"model.weights: {path} is not a torch file ({_first_line(error)})") from error
    except (SafetensorError, RuntimeError, EOFError, ValueError, OSError, KeyError, IndexError, TypeError) as error:
        raise UserError(f"model.weights: {path} cannot be read, it may be cut short ({_first_line(error)})") from error
    for key in ("state_dict", "model"):  # as many training scripts wrap it
        if isinstance(body, Mapping) and isinstance(body.get(key), Mapping):
            body = body[key]
    if not isinstance(body, Mapping) or not body or not all(isinstance(value, Tensor) for value in body.values()):
        raise UserError(f"model.weights: {path} holds no state_dict (names to tensors): save model.state_dict() alone")
    return {str(key): value for key, value in body.items()}


def fit(network: nn.Module, state: Mapping[str, Tensor], *, said: str, name: str, outputs: int) -> list[str]:
    """Copy `state` into `network` in place; returns the keys of `state` that were left out (heads of other sizes).

    A head of the network's own size is taken, whatever its outputs stood for where it was trained. Raises `UserError`, naming a few, for keys that are missing, unknown or of another shape."""
    wanted: dict[str, Tensor] = dict(network.state_dict())
    given = {_rename(key): value for key, value in _without_prefix(state).items()}
    head = head_name(network, outputs) + "."
    own = tuple(prefix for prefix in (head, *AUX_PREFIXES) if not _same(prefix, given, wanted))
    skipped = [key for key in given if key.startswith(own)] if own else []
    taken: dict[str, Tensor] = {}
    wrong: list[str] = []
    for key, value in given.items():
        if key in skipped or key not in wanted:
            continue
        fitted = _fit(network, key, value, wanted[key])
        if fitted.shape != wanted[key].shape:
            wrong.append(f"{key} is {list(value.shape)} and should be {list(wanted[key].shape)}")
        taken[key] = fitted
    # Files older than torch 0.4.1 do not count batches; a head that was left out stays as it was drawn.
    missing = [
        key for key in wanted if not (key in taken or key.endswith("num_batches_tracked") or key.startswith(own))
    ]
    unknown = [key for key in given if key not in wanted and key not in skipped]
    if missing or unknown or wrong:
        parts = [
            f"{what}: {_few(keys)}"
            for what, keys in (("missing", missing), ("unknown", unknown), ("other shape", wrong))
            if keys
        ]
        raise UserError(
            f"model.weights: {said} does not fit {name}: {'; '.join(parts)}. Is model.name the network it was made with?"
        )
    with torch.no_grad():
        for key, value in taken.items():
            wanted[key].copy_(value)
    return skipped


def _same(prefix: str, given: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> bool:
    """Whether what is called `prefix...` in both is the same layers of the same shapes."""
    shapes = [
        {k: v.shape for k, v in held.items() if k.startswith(prefix) and not k.endswith("num_batches_tracked")}
        for held in (given, wanted)
    ]
    return shapes[0] == shapes[1]


def _imagenet(name: str) -> dict[str, Tensor]:
    from torchvision.models import get_model_weights, list_models

    if name not in list_models():
        raise UserError(
            f"model.weights: there are no ImageNet weights of {name}; set model.weights to none or to a file"
        )
    chosen = get_model_weights(name).DEFAULT
    file = PurePosixPath(urlparse(chosen.url).path).name
    held = socket.getdefaulttimeout()
    socket.setdefaulttimeout(CONNECT_TIMEOUT_S)  # the download sets none: behind a wall it would wait for minutes
    try:
        state: dict[str, Tensor] = chosen.get_state_dict(
            progress=False, check_hash=True, map_location="cpu", weights_only=True
        )
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise UserError(
            f"model.weights: cannot download the ImageNet weights of {name} ({_first_line(error)}): give a file with model.weights: "
            f"PATH (get {file} from {chosen.url} on a machine with network)"
        ) from error
    finally:
        socket.setdefaulttimeout(held)
    return state


def _fit(network: nn.Module, key: str, value: Tensor, wanted: Tensor) -> Tensor:
    """`value` in the shape of `wanted`, where there is an exact or customary way; else as it is."""
    if value.shape == wanted.shape:
        return value
    if (
        value.ndim == 4
        and wanted.ndim == 4
        and value.shape[0] == wanted.shape[0]
        and value.shape[2:] == wanted.shape[2:]
    ):
        if (value.shape[1], wanted.shape[1]) == (3, 1):
            return value.sum(dim=1, keepdim=True)
        if (value.shape[1], wanted.shape[1]) == (1, 3):  # the same function of three equal channels
            return value.expand_as(wanted) / 3.0
    if key == "encoder.pos_embedding" and value.ndim == 3 and value.shape[::2] == wanted.shape[::2]:
        from torchvision.models.vision_transformer import interpolate_embeddings

        one: Any = OrderedDict({key: value.float()})
        side, patch = int(getattr(network, "image_size", 0)), int(getattr(network, "patch_size", 1))
        try:
            fitted: Tensor = interpolate_embeddings(side, patch, one)[key]
        except ValueError:
            return value
        return fitted
    return value


def _without_prefix(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names as the network alone has them: `module.` of DDP and `backbone.` of our classifier taken off."""
    out = dict(state)
    for prefix in ("module.", "backbone."):
        if out and all(key.startswith(prefix) for key in out):
            out = {key.removeprefix(prefix): value for key, value in out.items()}
    return out


def _rename(key: str) -> str:
    for pattern, replacement in RENAMES:
        key = pattern.sub(replacement, key)
    return key


def _few(keys: list[str], shown: int = 3) -> str:
    return ", ".join(keys[:shown]) + (f" and {len(keys) - shown} more" if len(keys) > shown else "")


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160]

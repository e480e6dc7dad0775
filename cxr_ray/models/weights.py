"""First weights of a network: none, torchvision's ImageNet weights, a file, another run. Checkpoints: training/checkpoint.py.

Tensors are adapted to the network: colour kernels are summed for a gray stem, a head of a different size is skipped, position
embeddings of a vision transformer are interpolated to the image size. Any other mismatch is an error that names the tensors.
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
# Published files use older names than torchvision's modules; torchvision renames them when it loads a file.
RENAMES = (
    (re.compile(r"(denselayer\d+\.(?:norm|relu|conv))\.([12])\."), r"\1\2."),
    (re.compile(r"\.mlp\.linear_1\."), ".mlp.0."),
    (re.compile(r"\.mlp\.linear_2\."), ".mlp.3."),
)
# Auxiliary heads of GoogLeNet and Inception: all tensors of one are loaded, or none if it is absent on a side or does not fit.
AUX_PREFIXES = ("aux1.", "aux2.", "AuxLogits.")
MODEL_FILE = "model.safetensors"
"""Name of the weights file in the folder of a run, and of a checkpoint."""


def load(network: nn.Module, source: str, *, name: str, outputs: int) -> list[str]:
    """Load `source` (none, imagenet, the path of a file, or the folder of a run) into `network` in place; returns the skipped keys.

    `name` is the model's registered name, `outputs` the size of its head. Raises `UserError` if the weights are not available
    or do not fit."""
    if source == "none":
        return []
    if source == "imagenet":
        return fit(network, _imagenet(name), source="torchvision's ImageNet weights", name=name, outputs=outputs)
    return fit(network, read(Path(source)), source=source, name=name, outputs=outputs)


def read(path: Path) -> dict[str, Tensor]:
    """The tensors of a `.safetensors` file, of a run folder, or of a torch file, which is read without running code in it.

    Raises `UserError`."""
    if path.is_dir() and not (path / MODEL_FILE).is_file():
        reason = "the run has no model yet" if (path / "run.json").exists() else "not a run folder"
        raise UserError(
            f"model.weights: {path} contains no {MODEL_FILE} ({reason}); give a finished run, or a file of weights"
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
                f"model.weights: {path} is a pickle with more than tensors in it, which could run code and is not read: "
                "save only its state_dict(), best as .safetensors"
            ) from error
        raise UserError(f"model.weights: {path} is not a torch file ({_first_line(error)})") from error
    except (SafetensorError, RuntimeError, EOFError, ValueError, OSError, KeyError, IndexError, TypeError) as error:
        raise UserError(f"model.weights: {path} cannot be read, it may be truncated ({_first_line(error)})") from error
    for key in ("state_dict", "model"):  # wrappers that many training scripts use
        if isinstance(body, Mapping) and isinstance(body.get(key), Mapping):
            body = body[key]
    if not isinstance(body, Mapping) or not body or not all(isinstance(value, Tensor) for value in body.values()):
        raise UserError(
            f"model.weights: {path} contains no state_dict (names to tensors): save only model.state_dict()"
        )
    return {str(key): value for key, value in body.items()}


def fit(network: nn.Module, state: Mapping[str, Tensor], *, source: str, name: str, outputs: int) -> list[str]:
    """Copy `state` into `network` in place; returns the keys of `state` that were skipped (heads of other sizes).

    A head of the right size is loaded whatever its outputs meant in the earlier training. Raises `UserError`, with a few
    examples, for keys that are missing, unknown or of a different shape; `source` is its name for `state`."""
    target: dict[str, Tensor] = dict(network.state_dict())
    loaded = {_rename(key): value for key, value in _without_prefix(state).items()}
    head = head_name(network, outputs) + "."
    own = tuple(prefix for prefix in (head, *AUX_PREFIXES) if not _same_shapes(prefix, loaded, target))
    skipped = [key for key in loaded if key.startswith(own)] if own else []
    fitted: dict[str, Tensor] = {}
    mismatched: list[str] = []
    for key, value in loaded.items():
        if key in skipped or key not in target:
            continue
        fitted[key] = _adapt(network, key, value, target[key])
        if fitted[key].shape != target[key].shape:
            mismatched.append(f"{key} is {list(value.shape)} and should be {list(target[key].shape)}")
    # Files older than torch 0.4.1 do not count batches; a skipped head keeps its random weights.
    missing = [
        key for key in target if not (key in fitted or key.endswith("num_batches_tracked") or key.startswith(own))
    ]
    unknown = [key for key in loaded if key not in target and key not in skipped]
    if missing or unknown or mismatched:
        parts = [
            f"{what}: {_few(keys)}"
            for what, keys in (("missing", missing), ("unknown", unknown), ("different shape", mismatched))
            if keys
        ]
        raise UserError(
            f"model.weights: {source} does not fit {name}: {'; '.join(parts)}. Is model.name the network it was made with?"
        )
    with torch.no_grad():
        for key, value in fitted.items():
            target[key].copy_(value)
    return skipped


def _same_shapes(prefix: str, *states: Mapping[str, Tensor]) -> bool:
    """Whether the tensors called `prefix...` have the same names and shapes in both states."""
    one, two = (
        {k: v.shape for k, v in state.items() if k.startswith(prefix) and not k.endswith("num_batches_tracked")}
        for state in states
    )
    return one == two


def _imagenet(name: str) -> dict[str, Tensor]:
    from torchvision.models import get_model_weights, list_models

    if name not in list_models():
        raise UserError(
            f"model.weights: there are no ImageNet weights for {name}; set model.weights to none or to a file"
        )
    chosen = get_model_weights(name).DEFAULT
    file = PurePosixPath(urlparse(chosen.url).path).name
    previous = socket.getdefaulttimeout()
    socket.setdefaulttimeout(CONNECT_TIMEOUT_S)  # the download sets none: behind a firewall it would wait for minutes
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
        socket.setdefaulttimeout(previous)
    return state


def _adapt(network: nn.Module, key: str, value: Tensor, target: Tensor) -> Tensor:
    """`value` in the shape of `target` if there is an exact or customary conversion; otherwise unchanged."""
    if value.shape == target.shape:
        return value
    if (
        value.ndim == 4
        and target.ndim == 4
        and value.shape[0] == target.shape[0]
        and value.shape[2:] == target.shape[2:]
    ):
        if (value.shape[1], target.shape[1]) == (3, 1):
            return value.sum(dim=1, keepdim=True)
        if (value.shape[1], target.shape[1]) == (1, 3):  # the same function of three equal channels
            return value.expand_as(target) / 3.0
    if key == "encoder.pos_embedding" and value.ndim == 3 and value.shape[::2] == target.shape[::2]:
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
    """Names of the network itself, without the prefixes `module.` of DDP and `backbone.` of our classifier."""
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

"""A trained model as one file that needs no cxr_ray: a program of torch (pt2) or ONNX, from gray images to probabilities.

The preprocessing of the model is part of it; decoding files is not. Weights are fp32. What a run's file is called and says is in
workflows/export.py.
"""
# N images, H x W pixels, L labels

import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from cxr_ray import losses
from cxr_ray.errors import UserError
from cxr_ray.models import check_size, head_logits
from cxr_ray.models.serialization import SavedModel

Format = Literal["pt2", "onnx"]
Floats = npt.NDArray[np.float32]

TOLERANCE = 1e-4
"""Largest difference of a probability from the run's, above which a file is refused."""
OPSET = 20
"""Version of ONNX's operators: the first with all that torch's exporter uses for these models."""
METADATA = "metadata.json"
"""Name of the extra file in a pt2."""
INPUT, OUTPUT = "images", "probabilities"


class Deployed(nn.Module):
    """Gray values [N, H, W] to probabilities float32 [N, L]; of several models, their mean. In eval mode."""

    def __init__(self, members: Sequence[SavedModel]) -> None:
        super().__init__()
        self.models = nn.ModuleList(member.model for member in members)
        self.task = members[0].task
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """uint8 [N, H, W], or float32 of 0 to 255; N at least 1."""
        # Not the classifier's own forward: it asks for the length of the batch, which would fix N.
        each = [
            losses.probabilities(head_logits(model.backbone(model.preprocess(images)))[0], task=self.task)
            for model in cast(Any, self.models)
        ]
        return each[0] if len(each) == 1 else torch.stack(each).mean(dim=0)


def to_bytes(
    module: Deployed, form: Format, *, size: tuple[int, int], dtype: torch.dtype, metadata: Mapping[str, Any]
) -> bytes:
    """The file of `module` for images [N, *size] of `dtype` (uint8 or float32), with any N.

    `metadata` is JSON: in a pt2 the extra file `METADATA`, in ONNX a property for each key (text as it is, the rest as JSON). Raises
    `UserError` if `size` is too small, if torch cannot export the network, and if the extra `export` is not installed."""
    for model in module.models:
        check_size(cast(Any, model).spec.image_size, size)
    if form == "onnx":
        _import_onnx()
    examples = torch.zeros((2, *size), dtype=dtype)
    try:
        with torch.no_grad(), _quiet():
            program = torch.export.export(
                module, (examples,), dynamic_shapes={INPUT: {0: torch.export.Dim("batch", min=1)}}
            )
            if form == "pt2":
                file = io.BytesIO()
                torch.export.save(program, file, extra_files={METADATA: json.dumps(metadata, indent=1)})
                return file.getvalue()
            translated = torch.onnx.export(
                program,
                (examples,),
                dynamo=True,
                opset_version=OPSET,
                input_names=[INPUT],
                output_names=[OUTPUT],
                verbose=False,
            )
            assert translated is not None
            for key, value in metadata.items():
                translated.model.metadata_props[key] = value if isinstance(value, str) else json.dumps(value)
            return translated.model_proto.SerializeToString()
    except Exception as error:  # torch's exporter raises many kinds for a network that it cannot trace
        names = ", ".join(dict.fromkeys(cast(Any, model).spec.name for model in module.models))
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise UserError(
            f"torch cannot export {names} as {form} ({type(error).__name__}: {reason[:200]}); model.safetensors of the run and "
            "cxr_ray.load_predictor work without an export"
        ) from error


def open_program(body: bytes, form: Format) -> Callable[[npt.NDArray[Any]], Floats]:
    """What a file computes: probabilities [N, L] of images [N, H, W]. `body` must be one's own: a pt2 may run code when it is opened."""
    if form == "pt2":
        program = torch.export.load(io.BytesIO(body)).module()

        def run_pt2(images_NHW: npt.NDArray[Any]) -> Floats:
            with torch.inference_mode():
                return np.asarray(program(torch.from_numpy(np.ascontiguousarray(images_NHW))).numpy())

        return run_pt2
    session = _import_onnx().InferenceSession(body, providers=["CPUExecutionProvider"])
    return lambda images_NHW: np.asarray(session.run([OUTPUT], {INPUT: np.ascontiguousarray(images_NHW)})[0])


def largest_difference(
    program: Callable[[npt.NDArray[Any]], Floats], images_NHW: npt.NDArray[Any], expected_NL: Floats
) -> float:
    """The largest difference of the probabilities that `program` gives from those expected; the first image as a batch of its own, so
    that two sizes of batches are tried."""
    found = [program(part) for part in (images_NHW[:1], images_NHW[1:]) if len(part)]
    difference = np.abs(np.concatenate(found) - expected_NL)
    return float(difference.max()) if np.isfinite(difference).all() else float("inf")


def _import_onnx() -> Any:
    """onnxruntime. Raises `UserError` if it, or what torch's exporter needs, is not installed."""
    try:
        import onnx  # noqa: F401 - of the same extra
        import onnxruntime
        import onnxscript  # noqa: F401 - torch's exporter needs it
    except ImportError as error:
        raise UserError(f"ONNX needs the extra export ({error}): pip install 'cxr_ray[export]'") from None
    return onnxruntime


@contextmanager
def _quiet() -> Iterator[None]:
    """Within it, the exporters' notes about their own internals are not shown."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)

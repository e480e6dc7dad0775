"""A trained model with the methods, outputs and options that explain it, batch by batch. Nothing is read, drawn or written here."""
# N maps: an image and an explained output each. M images, H x W pixels of the network's input, L labels

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cxr_ray import losses
from cxr_ray.errors import UserError, unknown
from cxr_ray.explanation.methods import METHODS, Attribution, attribute
from cxr_ray.inference.predictor import Predictor
from cxr_ray.models import GRAY_RANGE
from cxr_ray.models.family import GRADIENTS
from cxr_ray.registry import MODELS

NOTEBOOK = ("saliency", "lrp_epsilon", "lrp_alphabeta")
"""The methods of the notebook, side by side: the default, where the network can be explained by them."""
PREDICTED = "predicted"
"""The target that is each image's own: the output with the highest logit."""
ALL = "all"
"""The target that is every output of each image."""
CERTIFICATE = ("method", "row", "label", "logit", "relevance", "bias", "clip", "epsilon", "adds_up")
"""Columns of a table of certificates."""
MethodOptions: TypeAlias = Mapping[str, Mapping[str, Any]]
Array = npt.NDArray[Any]


@dataclass(frozen=True)
class MapBatch:
    """The maps of a batch, images in order and for each image its explained outputs in order."""

    images: npt.NDArray[np.uint8]
    """[N, H, W], the picture that each map belongs to, at the size of the network's input."""
    rows: npt.NDArray[np.int64]
    """[N]"""
    labels: list[str]
    """[N], the explained output."""
    logits: npt.NDArray[np.float32]
    """[N]; of an ensemble, the mean of its members'."""
    probabilities: npt.NDArray[np.float32]
    """[N]; of an ensemble, the mean of its members'."""
    maps: dict[str, npt.NDArray[np.float32]]
    """Method to [N, H, W]. Of an ensemble also METHOD/MEMBER for each member; METHOD is their mean."""
    certificates: list[dict[str, Any]]
    """A row per map of a method that has certificates; the columns are `CERTIFICATE`."""
    identities: dict[str, str]
    """Method to the identity that its certificates state."""


class Explainer:
    """A predictor with what is asked of it. `explainer(rows, grays)` gives the maps of a batch."""

    def __init__(
        self,
        predictor: Predictor,
        methods: Sequence[str],
        *,
        target: str | Sequence[str] = PREDICTED,
        options: MethodOptions | None = None,
    ) -> None:
        """`target`: predicted, all, a label or several. `options`: by method. Raises `UserError` for unknown methods, labels and
        options, for weights that are not finite, and for members of an ensemble whose inputs differ in size."""
        self.predictor, self.target = predictor, target
        self.labels, self.task = predictor.labels, predictor.task
        self.methods = tuple(dict.fromkeys(methods))
        if not self.methods:
            raise UserError("name at least one explanation method, such as saliency")
        self.options = {name: dict((options or {}).get(name, {})) for name in self.methods}
        for name, given in self.options.items():
            METHODS[name].parse(given, where="options")
        for name in options or {}:
            if name not in self.methods:
                raise UserError(f"options of {name}, which is not among the methods {', '.join(self.methods)}")
        self._outputs = resolve_target(target, self.labels, self.task)
        self._members = _named(predictor)
        for name, member in self._members.items():
            check_finite(member, name)
        sizes = {member.image_size for member in self._members.values()}
        if len(sizes) > 1:
            listed = ", ".join(f"{name} {m.image_size[0]} x {m.image_size[1]}" for name, m in self._members.items())
            raise UserError(
                f"maps of members with inputs of different sizes have no mean ({listed}): explain a member itself"
            )
        self.image_size = predictor.image_size

    @property
    def keys(self) -> list[str]:
        """The names of all maps: methods, and of an ensemble METHOD/MEMBER."""
        if len(self._members) == 1:
            return list(self.methods)
        return [key for m in self.methods for key in (m, *(f"{m}/{member}" for member in self._members))]

    def __call__(
        self, rows_M: npt.NDArray[np.int64], grays_MHW: Array, labels: Sequence[str] | None = None
    ) -> MapBatch:
        """The maps of images with these row numbers and gray values 0 to 255. `labels`: one for each image, instead of the target.

        Raises `UserError` for a constant image, and where a method cannot serve the network."""
        _refuse_constant(rows_M, grays_MHW)
        inputs = {name: self._preprocess(member, grays_MHW) for name, member in self._members.items()}
        logits_ML, probabilities_ML = self._predict(inputs)
        image_N, output_N = self._targets(logits_ML)
        if labels is not None:
            image_N, output_N = np.arange(len(rows_M)), np.asarray([self.labels.index(k) for k in labels], np.int64)
        at_N, target_N = torch.from_numpy(image_N), torch.from_numpy(output_N)
        rows_N, labels_N = rows_M[image_N], [self.labels[output] for output in output_N]
        maps: dict[str, npt.NDArray[np.float32]] = {}
        certificates: list[dict[str, Any]] = []
        identities: dict[str, str] = {}
        for method in self.methods:
            found = {
                name: self._attribute(method, member, inputs[name], at_N, target_N)
                for name, member in self._members.items()
            }
            each = {name: one.maps.detach().float().cpu().numpy() for name, one in found.items()}
            maps[method] = (
                np.mean(list(each.values()), axis=0, dtype=np.float32) if len(each) > 1 else each.popitem()[1]
            )
            if len(self._members) > 1:
                maps |= {f"{method}/{name}": each[name] for name in self._members}
            for name, one in found.items():
                key = method if len(self._members) == 1 else f"{method}/{name}"
                certificates += _certificate_rows(key, one, rows_N, labels_N)
                if one.certificate is not None:
                    identities[method] = one.certificate.identity
        return MapBatch(
            images=_pictures(next(iter(self._members.values())), next(iter(inputs.values())))[image_N],
            rows=rows_N,
            labels=labels_N,
            logits=logits_ML[image_N, output_N],
            probabilities=probabilities_ML[image_N, output_N],
            maps=maps,
            certificates=certificates,
            identities=identities,
        )

    def _preprocess(self, member: Predictor, grays_MHW: Array) -> Tensor:
        with torch.no_grad():
            return member.model.preprocess(member.model_images(grays_MHW))

    def _predict(self, inputs: Mapping[str, Tensor]) -> tuple[Array, Array]:
        """Mean logits and mean probabilities [M, L] of the members."""
        with torch.no_grad():
            each = [member.model.backbone(inputs[name]).float() for name, member in self._members.items()]
        logits = torch.stack(each).mean(0).cpu().numpy()
        return logits, torch.stack([losses.probabilities(one, task=self.task) for one in each]).mean(0).cpu().numpy()

    def _targets(self, logits_ML: Array) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """For each map [N] the position of its image in the batch, and the explained output."""
        images = len(logits_ML)
        if self._outputs is None:
            return np.arange(images), np.asarray(logits_ML.argmax(axis=1), np.int64)
        return np.repeat(np.arange(images), len(self._outputs)), np.tile(np.asarray(self._outputs, np.int64), images)

    def _attribute(self, method: str, member: Predictor, inputs: Tensor, at_N: Tensor, target_N: Tensor) -> Attribution:
        device = inputs.device
        return attribute(
            method, member.model.backbone, inputs[at_N.to(device)], target_N.to(device), **self.options[method]
        )


def default_methods(predictor: Predictor) -> tuple[str, ...]:
    """Those of `NOTEBOOK` that are valid for the network, of an ensemble for every member's."""
    families = [MODELS[member.model.spec.name].options for member in predictor.members]
    return tuple(m for m in NOTEBOOK if all(m in getattr(family, "explained_by", GRADIENTS) for family in families))


def resolve_target(target: str | Sequence[str], labels: Sequence[str], task: str) -> list[int] | None:
    """Positions of the explained outputs; None for `predicted`. Raises `UserError` for an unknown label, or a number."""
    names = list(target) if isinstance(target, Iterable) and not isinstance(target, str) else [target]
    if names == [PREDICTED] and PREDICTED not in labels:
        return None
    if names == [ALL] and ALL not in labels:
        return list(range(len(labels)))
    if not names:
        raise UserError("name a label to explain, or `predicted`")
    for name in (PREDICTED, ALL):
        if name in names and name not in labels:
            raise UserError(f"the target `{name}` stands alone: give it, or labels, not both")
    return [labels.index(check_label(name, labels, task)) for name in dict.fromkeys(names)]


def check_label(name: str, labels: Sequence[str], task: str) -> str:
    """`name`, if it is one of `labels`. Raises `UserError` with the closest label, and for a number with the label of that number."""
    if name in labels:
        return name
    kind = "class" if task == "multiclass" else "label"
    if not isinstance(name, str) or name.lstrip("-").isdigit():
        at = int(name)
        meant = f": number {at}, counted from 0, is {labels[at]!r}" if 0 <= at < len(labels) else ""
        raise UserError(f"give a {kind} by its name, not its number {name}{meant}; known: {', '.join(labels)}")
    raise unknown(kind, name, labels)


def _named(predictor: Predictor) -> dict[str, Predictor]:
    """The members by the names of their run folders; equal names get a number."""
    out: dict[str, Predictor] = {}
    for number, member in enumerate(predictor.members, start=1):
        name = member.run.path.name if member.run is not None else "model"
        out[name if name not in out else f"{name}-{number}"] = member
    return out


def check_finite(member: Predictor, name: str) -> None:
    """Raises `UserError` if a weight of the model, which is called `name` there, is not finite."""
    broken = [key for key, tensor in member.model.state_dict().items() if not torch.isfinite(tensor).all()]
    if broken:
        raise UserError(
            f"the weights of {name} are not finite ({len(broken)} tensors, the first is {broken[0]}): nothing can be explained; "
            "train it again, or explain another run"
        )


def _refuse_constant(rows_M: npt.NDArray[np.int64], grays_MHW: Array) -> None:
    flat_MP = grays_MHW.reshape(len(grays_MHW), -1)
    constant_M = flat_MP.min(axis=1) == flat_MP.max(axis=1)
    if constant_M.any():
        at = int(constant_M.argmax())
        raise UserError(
            f"the image of row {rows_M[at]} is constant (every pixel is {flat_MP[at, 0]:g}): there is nothing to explain; leave it out"
        )


def _pictures(member: Predictor, inputs: Tensor) -> npt.NDArray[np.uint8]:
    """What the network sees, as gray values [M, H, W]."""
    model = member.model
    scaled = (inputs[:, 0].float() * model.deviation + model.mean) * GRAY_RANGE[1]
    return scaled.round().clamp(0, 255).to(torch.uint8).cpu().numpy()


def _certificate_rows(
    key: str, found: Attribution, rows_N: npt.NDArray[np.int64], labels_N: Sequence[str]
) -> list[dict[str, Any]]:
    if found.certificate is None:
        return []
    terms = {name: getattr(found.certificate, name).detach().double().cpu().tolist() for name in CERTIFICATE[3:8]}
    holds = found.certificate.adds_up.cpu().tolist()
    return [
        {
            "method": key,
            "row": int(rows_N[n]),
            "label": labels_N[n],
            **{k: values[n] for k, values in terms.items()},
            "adds_up": bool(holds[n]),
        }
        for n in range(len(labels_N))
    ]

"""Probabilities for batches of images from a trained run or an ensemble. Every prediction of a trained model is made here."""
# N images, H height, W width, L labels

import os
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from cxr_ray import losses, runs
from cxr_ray.data import loader
from cxr_ray.data.features import FeatureStore
from cxr_ray.data.loader import TrainingStore
from cxr_ray.data.store_format import ImageFormat
from cxr_ray.errors import UserError
from cxr_ray.inference import embedder, unusual
from cxr_ray.inference.inputs import Images, format_of_files, gray_batches
from cxr_ray.inference.unusual import Floats, UnusualCheck
from cxr_ray.models import GRAY_RANGE, head_logits, serialization
from cxr_ray.models.classifier import in_value_range
from cxr_ray.models.features import feature_count, logits_and_features
from cxr_ray.runtime import memory, precision
from cxr_ray.runtime.context import pick_device
from cxr_ray.storage.atomic import sha256

Predict = Callable[[npt.NDArray[Any]], Floats]
"""From a batch to its probabilities [N, L]."""


class Checked(NamedTuple):
    """Probabilities of a batch, and how much its images differ from those of the training."""

    prob_NL: Floats
    score_N: Floats
    """Of `UnusualCheck.scores`: above 1 the image is unusual. NaN if the run has no check."""


class Predictor:
    """A trained model on a device. `predictor(images)` gives probabilities float32 [N, L] of the labels `predictor.labels`."""

    def __init__(self, saved: serialization.SavedModel, device: torch.device, *, run: runs.Run | None = None) -> None:
        memory.keep_heap()
        self.labels, self.task = saved.labels, saved.task
        spec = saved.model.spec
        self.image_size = spec.image_size
        """(H, W) in pixels of the network's input; larger images are resized to it, smaller ones refused."""
        self.value_range = spec.value_range
        """Black and white of float images; those of uint8 images are 0 and 255."""
        self._run = run
        self.device = device
        self._precision = precision.pick(saved.precision if precision.has_bf16(device) else "fp32", device)
        self.model = saved.model.to(device, memory_format=self._precision.layout).eval()
        """The classifier itself, with float32 weights."""

    def __repr__(self) -> str:
        name = "" if self._run is None else f" of {self._run.path.name}"
        return f"{type(self).__name__}{name}({self.task}: {', '.join(self.labels)})"

    def __call__(self, images: Images, *, batch_size: int = 64) -> npt.NDArray[np.float32]:
        """Probabilities [N, L]; for classes each row sums to one. N is 1 for a single image.

        `images`: an array or tensor [H, W], [N, H, W] or [N, 1, H, W] of gray values 0 to 255 (float ones in `value_range`), a
        Pillow image, the path of a file (PNG, JPEG, DICOM and more), or a list of such. Files and Pillow images become gray and
        are resized as in `image_format`. Raises `UserError` for what cannot be an image in this range, or cannot be read."""
        if batch_size < 1:
            raise UserError(f"batch_size must be at least 1, got {batch_size}")
        count, batches = gray_batches(
            images, lambda: self.image_format, value_range=self.value_range, batch_size=batch_size
        )
        starts = range(0, count, batch_size)
        return self._collect(
            count, ((slice(at, at + batch_size), batch) for at, batch in zip(starts, batches, strict=True))
        )

    @cached_property
    def image_format(self) -> ImageFormat:
        """Size, aspect and depth that files are decoded to; see `inputs.format_of_files`."""
        return format_of_files(self._run, self.image_size)

    @property
    def run(self) -> runs.Run | None:
        """The run that the model is of; None for a file of weights."""
        return self._run

    @property
    def members(self) -> "Sequence[Predictor]":
        """The predictors of an ensemble's members; of a single model, itself."""
        return [self]

    def model_images(self, grays_NHW: npt.NDArray[Any]) -> torch.Tensor:
        """Gray values 0 to 255 [N, H, W] on the device, as `model` takes them: uint8, or float32 in `value_range`."""
        return self._on_device(in_value_range(grays_NHW, self.value_range))

    def _on_device(self, grays_NHW: npt.NDArray[Any]) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(grays_NHW)).to(self.device)

    def probabilities(self, grays_NHW: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Probabilities [N, L] of one batch of gray values 0 to 255 [N, H, W], uint8 or float32, such as a store gives; no checks."""
        parts = memory.parts_for(self.device, grays_NHW, self.image_size)
        return np.concatenate([self._probabilities(part_NHW) for part_NHW in parts])

    def _probabilities(self, grays_NHW: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        with torch.inference_mode(), self._precision.autocast(self.device):
            logits = self.model(self.model_images(grays_NHW)).float()
        return losses.probabilities(logits, task=self.task).cpu().numpy()

    @cached_property
    def check(self) -> UnusualCheck | None:
        """The check for unusual images of the run's present model; None if it has none, or for a file of weights."""
        return None if self._run is None else check_of(self._run)

    def checked(self, grays_NHW: npt.NDArray[Any], *, aspect_N: npt.NDArray[np.float64] | None = None) -> Checked:
        """As `probabilities`, and in the same pass the scores [N] of the check for unusual images.

        `aspect_N`: height / width of the original images, NaN where it is unknown."""
        if self.check is None:
            return Checked(self.probabilities(grays_NHW), np.full(len(grays_NHW), np.nan, np.float32))
        prob_NL, values = self.measured(grays_NHW)
        return Checked(prob_NL, self.check.scores(values, aspect_N))

    def measured(self, grays_NHW: npt.NDArray[Any]) -> tuple[Floats, dict[str, Floats]]:
        """Probabilities [N, L], and what the check measures by name: as `unusual.measure`, and `features` if the model has a head."""
        parts = memory.parts_for(self.device, grays_NHW, self.image_size)
        probs, values = zip(*(self._measured(part_NHW) for part_NHW in parts), strict=True)
        return np.concatenate(probs), {name: np.concatenate([each[name] for each in values]) for name in values[0]}

    def _measured(self, grays_NHW: npt.NDArray[Any]) -> tuple[Floats, dict[str, Floats]]:
        as_taken_NHW = in_value_range(grays_NHW, self.value_range)
        images = self._on_device(as_taken_NHW)
        with torch.inference_mode():
            values = unusual.measure(images if as_taken_NHW is grays_NHW else self._on_device(grays_NHW))
            with self._precision.autocast(self.device):
                if self._has_features:
                    logits, features = logits_and_features(self.model, images)
                    values["features"] = features.cpu().numpy()
                else:
                    logits = head_logits(self.model(images))[0]
            return losses.probabilities(logits.float(), task=self.task).cpu().numpy(), values

    def measured_rows(
        self, store: TrainingStore, rows: npt.NDArray[np.int64], *, batch_size: int = 64
    ) -> dict[str, Floats]:
        """What the check measures of store rows [N], by name: as `measured`."""
        images = loader.eval_batches(store, rows, batch_size=batch_size)
        batches = [self._measured_of(store, rows[here], grays) for here, grays in images]
        return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}

    def _measured_of(
        self, store: TrainingStore, rows: npt.NDArray[np.int64], grays_NHW: npt.NDArray[Any]
    ) -> dict[str, Floats]:
        """What the check measures of a batch of a store's rows [N], whose gray values are given."""
        return self.measured(grays_NHW)[1]

    @cached_property
    def _has_features(self) -> bool:
        """Whether a layer of the model can be identified as its head."""
        try:
            return feature_count(self.model) > 0
        except UserError:
            return False

    def rows(
        self,
        store: TrainingStore,
        rows: npt.NDArray[np.int64],
        *,
        batch_size: int = 64,
        progress: Callable[[int, int], None] | None = None,
    ) -> npt.NDArray[np.float32]:
        """Probabilities [N, L] of store rows [N], in their order. `progress` is called with the numbers of rows (done, total)."""
        source, predict = self._source(store)
        return self._collect(len(rows), loader.eval_batches(source, rows, batch_size=batch_size), progress, predict)

    def _source(self, store: TrainingStore) -> tuple[TrainingStore, Predict]:
        """What is read for the rows of a store, and what predicts a batch of it."""
        return store, self.probabilities

    def _collect(
        self,
        count: int,
        batches: Iterable[tuple[slice, npt.NDArray[Any]]],
        progress: Callable[[int, int], None] | None = None,
        predict: Predict | None = None,
    ) -> npt.NDArray[np.float32]:
        """Probabilities [N, L] of `count` N images, in batches with their places; `predict` is `probabilities` by default.

        One array is filled: a list of small ones would lie between the blocks of the activations, and memory would grow."""
        prob_NL = np.empty((count, len(self.labels)), np.float32)
        predict = predict or self.probabilities
        for here, grays_NHW in batches:
            prob_NL[here] = predict(grays_NHW)
            if progress is not None:
                progress(min(here.stop, count), count)
        return prob_NL


class FeaturePredictor(Predictor):
    """The predictor of a run on features: of images by the network that made the features, with the run's head.

    Rows of the store that has features are predicted from those."""

    def __init__(self, run: runs.Run, device: torch.device) -> None:
        super().__init__(embedder.saved_model(run), device, run=run)
        self._features = embedder.features_of(run)
        self._head = serialization.read(run.weights).model.to(device)

    def _source(self, store: TrainingStore) -> tuple[TrainingStore, Predict]:
        return (self._checked, self._of_features) if self._has_features_of(store) else super()._source(store)

    def _measured_of(
        self, store: TrainingStore, rows: npt.NDArray[np.int64], grays_NHW: npt.NDArray[Any]
    ) -> dict[str, Floats]:
        if not self._has_features_of(store):
            return super()._measured_of(store, rows, grays_NHW)
        return {**unusual.measure(self._on_device(grays_NHW)), "features": self._checked.vectors(rows)}

    @cached_property
    def _checked(self) -> FeatureStore:
        """The features, once every byte of them is checked."""
        self._features.check_bytes(self._features.shards)
        return self._features

    def _has_features_of(self, store: TrainingStore) -> bool:
        return getattr(store, "fingerprint", None) == self._features.manifest.store

    def _of_features(self, features_N1D: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Probabilities [N, L] of features [N, 1, D]."""
        with torch.inference_mode():
            logits = self._head(torch.from_numpy(features_N1D).to(self.device))
        return losses.probabilities(logits, task=self.task).cpu().numpy()


class Ensemble(Predictor):
    """The mean probabilities of several predictors. Each has its own image size and normalisation."""

    def __init__(self, members: Sequence[Predictor], *, run: runs.Run | None = None) -> None:
        self.labels, self.task = members[0].labels, members[0].task
        heights, widths = zip(*(member.image_size for member in members), strict=True)
        self.image_size = (max(heights), max(widths))
        self.value_range = GRAY_RANGE
        self._run = run
        self._members = members

    @property
    def members(self) -> Sequence[Predictor]:
        return self._members

    def probabilities(self, grays_NHW: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Mean probabilities [N, L] of gray values 0 to 255 [N, H, W]."""
        mean = np.mean([member.probabilities(grays_NHW) for member in self._members], axis=0, dtype=np.float64)
        return np.asarray(mean, dtype=np.float32)

    def checked(self, grays_NHW: npt.NDArray[Any], *, aspect_N: npt.NDArray[np.float64] | None = None) -> Checked:
        """Mean probabilities, and the mean scores of those members that have a check: unusual is what is so on average."""
        each = [member.checked(grays_NHW, aspect_N=aspect_N) for member in self._members]
        mean = np.mean([one.prob_NL for one in each], axis=0, dtype=np.float64)
        scores = [one.score_N for one in each if not np.isnan(one.score_N).any()] or [each[0].score_N]
        return Checked(np.asarray(mean, dtype=np.float32), np.mean(scores, axis=0, dtype=np.float32))


def load(run: runs.Run | str | os.PathLike[str], *, gpu: bool | str = "auto") -> Predictor:
    """The predictor of a run or its folder; for an ensemble, of all its members.

    Raises `UserError` if the run or a member has no model, and if a member's labels or task differ from the ensemble's."""
    run = runs.load(run)
    run.check_trained()
    device = pick_device(gpu)
    members = run.members
    if not members:
        return _of_run(run, device)
    predictors = [_of_run(member, device) for member in members]
    labels, task = tuple(run.info["labels"]), run.info["task"]
    for member, predictor in zip(members, predictors, strict=True):
        if (predictor.labels, predictor.task) != (labels, task):
            raise UserError(
                f"the ensemble {run.path.name} is of {task} {', '.join(labels)}, and its member {member.path.name} of "
                f"{predictor.task} {', '.join(predictor.labels)}; create the ensemble again"
            )
    return Ensemble(predictors, run=run)


def _of_run(run: runs.Run, device: torch.device) -> Predictor:
    """The predictor of a run that is no ensemble."""
    if run.config.data.features is not None:
        return FeaturePredictor(run, device)
    return Predictor(embedder.saved_model(run), device, run=run)


def check_of(run: runs.Run) -> UnusualCheck | None:
    """The check for unusual images that was fitted to the present model of `run`; None if there is none, or of other weights.

    Raises `UserError` if its file is damaged."""
    try:
        check = unusual.read(run.path / unusual.FILE)
    except FileNotFoundError:
        return None
    return check if check.about["weights"] == sha256(run.weights) else None

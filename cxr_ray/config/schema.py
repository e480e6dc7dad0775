"""Every knob once: its name, its default, its meaning. Files, flags and search spaces all read this model.

Reading order: `yaml.safe_load`, then the flags merged in deep, then one validation. Names of models, losses and
sources are resolved later, when a verb starts, so that this module needs neither torch nor ray.
"""

import hashlib
import json
import re
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator

from cxr_ray.config.metric_names import Mode, mode_of

Uncertain = Literal["zeros", "ones", "ignore", "smooth", "smooth_zeros"]

MetricName = Annotated[str, AfterValidator(lambda given: re.sub(r"/macro(?!\w)", "/mean", given))]
"""A metric, or a bound on one, with the mean over labels by its one name."""


class Section(BaseModel):
    """A frozen group of knobs; an unknown key is an error that names the closest known one."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, validate_default=True)


class Split(Section):
    """Which rows are train, val and test."""

    by: Literal["patient", "image"] = "patient"
    """What is kept whole in one part: all images of a patient, or each image for itself."""
    val: float | Literal["official"] = 0.1
    """Share of the rows for val, or `official`: the dataset's own val list."""
    test: float | Literal["official"] = 0.2
    """Share of the rows for test, or `official`: the dataset's own test list; val is then cut from the rest."""
    seed: int = 0
    """Keys the split alone, so that runs with other seeds are judged on the same rows."""
    folds: int | None = Field(default=None, ge=2)
    """k: what the test part leaves is cut into k folds, of which one is val; then `val` is not read."""
    fold: int = Field(default=0, ge=0)
    """Which of the folds, from 0, is val in this run."""
    leaks: Literal["refuse", "drop"] = "refuse"
    """A patient or a picture in two parts of official lists is refused, or its rows dropped from train, then from val."""
    near_duplicates: int | None = Field(default=4, ge=0, le=12)
    """Bits of 64 by which the perceptual hashes of pictures in two parts may differ for a warning that they are one (copies
    differ in 0 to 4; their thumbnails must correlate, too); null: not looked for."""

    @field_validator("val", "test")
    @classmethod
    def _share(cls, value: float | str) -> float | str:
        if not isinstance(value, str) and not 0.0 <= value < 1.0:
            raise ValueError("a share lies in [0, 1)")
        return value

    @model_validator(mode="after")
    def _fold(self) -> "Split":
        if self.folds is not None and self.fold >= self.folds:
            raise ValueError(f"fold: {self.fold} is none of the {self.folds} folds, which count from 0")
        if self.folds is not None and self.val == "official":
            raise ValueError("val: official and folds both say what val is; leave one out")
        return self


class Data(Section):
    """Which rows of which store, with which labels, and what their raw values mean."""

    shards: str | None = None
    """Folder or URL (s3://, gs://, abfs://) of the store that `cxr-ray ingest` wrote; the one knob without a default that works."""
    filters: Literal["default", "none"] | list[str] = "default"
    """default: the cleaning that the source declares; none; or a list of pandas query strings over the records."""
    labels: str | list[str] = "all"
    """all, a group such as competition5, or a list of labels and groups."""
    groups: dict[str, list[str]] = {}
    """Your own groups by name: lists of labels and groups, usable wherever labels are named."""
    task: Literal["auto", "multilabel", "multiclass", "binary"] = "auto"
    """auto: what the store says."""
    uncertain: Uncertain | dict[str, Uncertain] = "zeros"
    """What training sees for uncertain (-1): one policy, or one a label or group; labels left out get zeros. smooth draws
    from 0.55 to 0.85, smooth_zeros from 0 to 0.3."""
    blank: Literal["zeros", "ignore"] = "zeros"
    """What training and judging see for not mentioned."""
    eval_uncertain: Literal["zeros", "ones", "ignore"] = "ignore"
    """What val and test are judged by: the truth does not move with the training policy."""
    split: Split = Split()
    limit: int | None = Field(default=None, ge=1)
    """About so many rows for quick runs: patients whole, drawn by split.seed from each part of the split of all rows, so that no row
    changes its part."""
    oversample_min_count: int = Field(default=0, ge=0)
    """Label vectors with fewer rows in train are drawn this often; 0 is off."""
    balance_warning: float = Field(default=0.02, ge=0.0, le=1.0)
    """Difference of shares between train and val that is warned of (0.02: two points)."""
    image_size: tuple[int, int] | None = None
    """[height, width] in pixels on the device, at most the store's; null: the store's."""
    normalize: Literal["dataset", "imagenet", "none"] | tuple[float, float] = "dataset"
    """dataset (mean and deviation of the train rows), imagenet, none, or [mean, deviation], all of gray values in 0 to 1."""
    cache: str = "auto"
    """Where each node keeps its one copy of a remote store: auto ($XDG_CACHE_HOME or ~/.cache, in cxr_ray/stores), a folder, or
    none (a copy of each process's own, removed when it ends)."""
    verify: Literal["manifest", "full", "none"] = "manifest"
    """manifest: the store's manifest and every file's size; full: every byte; none."""


class Augment(Section):
    """Random changes of each train image, drawn on the device from (seed, epoch, position)."""

    probability: float = Field(default=0.2, ge=0.0, le=1.0)
    """Chance of the affine change, and apart from it of the jitter, for each image; 0 turns both off."""
    degrees: float = Field(default=5.0, ge=0.0, le=180.0)
    """Rotation is drawn from [-degrees, degrees]."""
    translate: float = Field(default=0.05, ge=0.0, lt=1.0)
    """Largest shift, as a share of width and height."""
    shear: float = Field(default=5.0, ge=0.0, lt=90.0)
    """Horizontal shear is drawn from [-shear, shear] degrees."""
    scale: float = Field(default=0.0, ge=0.0, lt=1.0)
    """0.1: sizes from 0.9 to 1.1."""
    brightness: float = Field(default=0.2, ge=0.0, le=1.0)
    """0.2: gray values times 0.8 to 1.2."""
    contrast: float = Field(default=0.1, ge=0.0, le=1.0)
    """0.1: differences from the image's mean times 0.9 to 1.1."""
    flip: float = Field(default=0.0, ge=0.0, le=1.0)
    """Chance of a left-right flip. Off: the heart has a side."""
    erase: float = Field(default=0.0, ge=0.0, le=1.0)
    """Chance that a rectangle of the image is filled with the image's mean (random erasing, after all other changes)."""
    mixup: float = Field(default=0.0, ge=0.0)
    """Each image is mixed with another of its global batch, and so are their targets, by shares from Beta(mixup, mixup); 0 off."""


class Model(Section):
    """The architecture, its stem, its head and its first weights."""

    name: str = "resnet18"
    """A name that `cxr-ray models` lists."""
    stem: Literal["gray", "repeat"] = "gray"
    """gray: one channel, pretrained colour stems summed; repeat: three equal channels."""
    weights: str = "none"
    """none, imagenet, the path of a file (.pth of torchvision, .safetensors of ours), or the folder of another run."""
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Chance of dropout, besides what the architecture has of its own; 0 off."""
    dropout_where: Literal["head", "maps"] = "head"
    """head: what enters the head; maps: whole feature maps after each activation (Dropout2d, put in by hooks)."""
    head: Literal["replace", "append"] = "replace"
    """replace: a fresh head in place of the 1,000-way layer; append: that layer is kept and a fresh one follows it."""
    freeze_epochs: int = Field(default=0, ge=0)
    """Epochs in which the head alone learns; the rest then has its weights and its batch norm's statistics held."""
    options: dict[str, Any] = {}
    """What this model alone knows, checked against its Options."""


class Loss(Section):
    """What a step minimises, defined on the global batch."""

    name: str = "auto"
    """auto: bce or cross_entropy by task; focal, asymmetric, auc_margin for labels."""
    pos_weight_power: float = Field(default=0.0, ge=0.0, le=1.0)
    """Weight of positives = (negatives / positives) ** power over the undrawn train rows; 0 off, 1 full."""
    reduction: Literal["mean", "sum"] = "mean"
    """mean: over the known cells of the global batch; sum."""
    label_smoothing: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Targets are moved this far towards even odds."""
    options: dict[str, Any] = {}
    """What this loss alone knows, checked against its Options."""


class Optim(Section):
    """How weights move."""

    name: Literal["adam", "adamw", "sgd"] = "adam"
    """adam (L2 in the gradient), adamw (decoupled decay), sgd (Nesterov momentum 0.9)."""
    lr: float = Field(default=1.0e-4, gt=0.0)
    """Learning rate at its highest."""
    weight_decay: float = Field(default=0.0, ge=0.0)
    """L2 factor."""
    decay_norms: bool = True
    """Whether biases and the weights of norms decay too, as torch has it; false leaves out all that is one-dimensional."""
    head_lr_factor: float = Field(default=1.0, gt=0.0)
    """The head learns this many times as fast as the rest."""
    schedule: Literal["constant", "cosine", "onecycle", "step", "plateau"] = "constant"
    """Course of the rate after the warm-up; cosine and onecycle fall to zero at the last step, step and plateau by drops."""
    drop_epochs: int = Field(default=10, ge=1)
    """step: epochs from drop to drop; plateau: epochs in a row without a better `train.monitor` that bring a drop."""
    drop_factor: float = Field(default=0.1, gt=0.0, lt=1.0)
    """What a drop of step or plateau multiplies the rate by."""
    warmup_epochs: float = Field(default=0.0, ge=0.0)
    """Epochs over which the rate rises linearly from zero; onecycle rises by itself and takes none."""
    clip_norm: float | None = Field(default=None, gt=0.0)
    """Largest gradient norm; null: no clipping."""
    ema: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Decay of the moving average of the weights, which is then what is judged and kept; 0 off."""

    @model_validator(mode="after")
    def _one_rise(self) -> "Optim":
        if self.schedule == "onecycle" and self.warmup_epochs:
            raise ValueError("onecycle rises over its first 30% by itself: leave warmup_epochs at 0")
        return self


class Train(Section):
    """The loop, its workers and what it watches."""

    epochs: int = Field(default=4, ge=0)
    """Passes over the train rows; 0 judges the untrained model."""
    batch_size: int = Field(default=64, ge=1)
    """Global: the same samples in the same order at any number of workers."""
    micro_batch: Annotated[int, Field(ge=1)] | Literal["auto"] | None = None
    """Rows a worker holds at once; auto: its share of the batch, halved until it fits the GPU's memory (a processor's memory cannot be
    asked: there the whole share); null: the whole share."""
    workers: int = Field(default=1, ge=1)
    """Processes that share each batch."""
    min_workers: int | None = Field(default=None, ge=1)
    """Elastic: go on with as few as these where nodes are lost, and with `workers` again when they are back; null: exactly
    `workers`. The batches stay the same."""
    gpu: Literal["auto"] | bool = "auto"
    """auto: where one is there."""
    resources_per_worker: dict[str, float] = {}
    """What Ray reserves for a worker, such as {CPU: 4}; empty: one CPU (and one GPU)."""
    threads: int | None = Field(default=None, ge=1)
    """Torch threads of a worker; null: all cores here alone, else the worker's CPUs."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """auto: bf16 and channels_last where the processor has AMX or the GPU bf16, else fp32; fp16 scales its gradients."""
    compile: bool = False
    """Let torch.compile make the training step's code: the first steps take a minute, later ones less time than before."""
    sync_batch_norm: bool = False
    """Batch norm over the whole batch and not over each worker's share; on GPUs alone, without `micro_batch`, and where no batch
    leaves a worker without rows."""
    monitor: MetricName = "val/auroc/mean"
    """Metric that chooses the best checkpoint, such as val/f1/mean or val/recall_at_precision_0.5/mean (0.1, 0.25, 0.5, 0.75, 0.9); for
    classes, where not given, val/accuracy."""
    monitor_mode: Literal["auto"] | Mode = "auto"
    """Whether more of it is better; auto: by what it measures (min for loss, hamming, brier and ece)."""
    select: Literal["best", "last"] = "best"
    """Which checkpoint becomes the run's model: the best trained epoch by `monitor`, or the last epoch's (no choice made on val)."""
    log_rows: bool = False
    """Write the row numbers of every step and rank to rows/rank-N.csv of the run: what was seen, in which order."""
    patience: int | None = Field(default=None, ge=1)
    """Epochs without a better `monitor` after which the training ends; null: never."""
    checkpoint_minutes: float | None = Field(default=10.0, gt=0.0)
    """Minutes between checkpoints within an epoch, besides the one at its end; null: none within."""
    max_time: float | None = Field(default=None, gt=0.0)
    """Minutes of training, over all starts, after which it ends with what it has; null: no limit."""
    max_failures: int = Field(default=3, ge=0)
    """How often the workers may be started again from the last checkpoint."""

    @model_validator(mode="after")
    def _elastic(self) -> "Train":
        if self.min_workers is not None and self.min_workers > self.workers:
            raise ValueError(f"min_workers: {self.min_workers} is more than workers: {self.workers}")
        return self

    @model_validator(mode="after")
    def _in_step(self) -> "Train":
        if self.sync_batch_norm and self.micro_batch is not None:
            raise ValueError(
                "sync_batch_norm and micro_batch: workers whose shares make other numbers of pieces would wait for each other for "
                "ever; leave one out"
            )
        return self

    @property
    def mode(self) -> Mode:
        """Whether more or less of `monitor` is better."""
        return mode_of(self.monitor, self.monitor_mode)


class Report(Section):
    """What is judged and shown."""

    labels: str | list[str] = "all"
    """What the epoch's line shows; tables and reports hold every label."""
    thresholds: float | Literal["youden", "f1"] | dict[str, float] = 0.5
    """Positive is probability >= threshold: one number, or one a label or group (labels left out: 0.5); or a rule that chooses them on
    val: youden, f1, {recall: 0.9} (at least, with the highest precision), {specificity: 0.9}."""
    assurance: float | None = Field(default=0.95, gt=0.0, lt=1.0)
    """Chance with which a recall or specificity rule is to hold on further rows: thresholds keep a margin for it; null: none."""
    bootstrap: int = Field(default=1000, ge=0)
    """Resamples for the intervals; 0 turns them off."""
    interval_by: Literal["patient", "image"] = "patient"
    """What is resampled."""
    interval: Literal["percentile", "bca"] = "percentile"
    """How an interval is read off the resamples: percentile, or bias-corrected and accelerated."""
    images: bool = True
    """Show the worst misses and false alarms as pictures in the report; false: no picture of a patient leaves the store."""
    keep_predictions: bool = False
    """Keep every epoch's predictions of train and val."""
    trackers: list[Literal["tensorboard", "mlflow"]] = ["tensorboard"]
    """Where metrics go besides the run folder's tables; mlflow: to MLFLOW_TRACKING_URI, else to mlflow.db beside the runs."""
    rivals: bool = True
    """Judge the thumbnail and border regressions beside the model."""


class Tune(Section):
    """A sweep: many trainings over one store, judged on the same val rows by one truth."""

    trials: int = Field(default=16, ge=1)
    """How many combinations random and optuna try; grid and list try all of theirs."""
    metric: MetricName | list[MetricName] = "val/auroc/mean"
    """What a trial is judged by, at its best epoch; several: a trade-off, told as the trials that no other beats in all."""
    mode: Literal["auto"] | Mode | list[Literal["auto"] | Mode] = "auto"
    """Whether more of the metric is better; auto: by what it measures, as `train.monitor_mode`; one for all, or one a metric."""
    constraint: MetricName | list[MetricName] | None = None
    """What the winner must reach besides, such as "val/recall/mean >= 0.8"; a scheduler ranks a trial lower by what it misses."""
    search: Literal["random", "grid", "optuna", "list"] = "random"
    """random draws, grid takes every combination of choices (under asha in an order that `seed` draws), optuna learns from what it
    tried, list takes `combinations`."""
    scheduler: Literal["asha", "none", "pbt"] = "asha"
    """asha ends trials that lag behind, pbt lets them take over weights and change knobs in mid-training, none."""
    grace_epochs: Literal["auto"] | Annotated[int, Field(ge=1)] = "auto"
    """asha: no trial is ended before; pbt: epochs between changes; auto: what 30 steps take, at most a third of `train.epochs`."""
    reduction: float = Field(default=3.0, gt=1.0)
    """asha: of so many trials at a rung one goes on (3, as Hyperband's authors advise: Li et al., JMLR 2018)."""
    base: bool = True
    """Train the config as written too, as trial 0: what the search has won is measured against it."""
    folds: int | None = Field(default=None, ge=2)
    """k: every trial is trained on each of k folds by patient and judged by the mean; refused with a scheduler (set `scheduler: none`)
    and with search optuna."""
    ensemble: int = Field(default=0, ge=0)
    """The best so many trials are also judged together, their probabilities averaged; 0: none. With folds this is not read: the
    winner's folds are judged together in any case."""
    max_concurrent: Literal["auto"] | int = "auto"
    """Trials at once; auto: as many as the cluster has room for. Under pbt all take turns: leave it at auto."""
    trial_gpus: float | None = Field(default=None, gt=0.0)
    """Share of a GPU for a trial of one worker: 0.25 puts four on one; null: a whole one where there is one."""
    max_time: float | None = Field(default=None, gt=0.0)
    """Minutes after which no trial is started and those that run end with what they have; null: no limit."""
    retries: int = Field(default=1, ge=0)
    """How often a trial that died (killed, out of memory, hung) is started again from its last checkpoint."""
    hang_minutes: float = Field(default=30.0, gt=0.0)
    """A trial that has not said anything for so long is ended and counts as died."""
    space: dict[str, Any] = {}
    """Knobs by dotted name: {loguniform: [a, b]}, {uniform: [a, b]}, {integer: [a, b]} (both ends in), {choice: [...]}."""
    combinations: list[dict[str, Any]] = []
    """search list: each a mapping of knobs by dotted name to values."""

    @field_validator("max_concurrent")
    @classmethod
    def _some(cls, value: int | str) -> int | str:
        if isinstance(value, int) and value < 1:
            raise ValueError("auto, or at least one trial at a time")
        return value

    @model_validator(mode="after")
    def _fits(self) -> "Tune":
        if isinstance(self.mode, list) and len(self.mode) != len(self.metrics):
            raise ValueError(
                f"mode: {len(self.mode)} modes for {len(self.metrics)} metrics; give one for all, or one a metric"
            )
        if not self.metrics:
            raise ValueError("metric: an empty list; name at least one, such as val/auroc/mean")
        return self

    @property
    def metrics(self) -> list[str]:
        """What is judged, one or several."""
        return [self.metric] if isinstance(self.metric, str) else list(self.metric)

    @property
    def modes(self) -> list[Mode]:
        """The mode of each metric."""
        asked = self.mode if isinstance(self.mode, list) else [self.mode] * len(self.metrics)
        return [mode_of(metric, one) for metric, one in zip(self.metrics, asked, strict=True)]


class Config(Section):
    """One training, whole; and the sweep around it."""

    name: str | None = None
    """Run name; null: date, model, short hash of the config."""
    output: str = "runs"
    """Folder that runs are made in."""
    seed: int = 0
    """Keys every random draw but the split's."""
    seeds: int = Field(default=1, ge=1)
    """`cxr-ray train` trains so many runs, with seed, seed + 1, ..., one after the other; `cxr-ray compare` tells their spread."""
    plugins: list[str] = []
    """Modules that register more sources, models, losses."""
    data: Data = Data()
    augment: Augment = Augment()
    model: Model = Model()
    loss: Loss = Loss()
    optim: Optim = Optim()
    train: Train = Train()
    report: Report = Report()
    tune: Tune = Tune()

    def digest(self) -> str:
        """Ten hex digits of everything but the run's name and place: equal digests mean the same experiment."""
        skip = {"name", "output"} | ({"tune"} if self.tune == Tune() else set())
        body = json.dumps(self.model_dump(mode="json", exclude=skip), sort_keys=True)
        return hashlib.sha256(body.encode()).hexdigest()[:10]

    def for_task(self, task: str) -> "Config":
        """This config with `train.monitor` settled: for classes, where none was given, `val/accuracy`."""
        if task == "multiclass" and "monitor" not in self.train.model_fields_set:
            return self.model_copy(update={"train": self.train.model_copy(update={"monitor": "val/accuracy"})})
        return self

    def to_yaml(self) -> str:
        """The whole resolved config, every knob written out; `tune` where it is a sweep's."""
        skip = {"tune"} if self.tune == Tune() else set()
        return yaml.safe_dump(self.model_dump(mode="json", exclude=skip), sort_keys=False, allow_unicode=True)

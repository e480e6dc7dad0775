"""Declares every setting: name, type, default and meaning. Config files, flags and search spaces are checked against it.

Reading files is in loading.py. Names of models, losses and sources are resolved when a command starts, so this module
needs neither torch nor ray. A setting's docstring is its help text.
"""

import hashlib
import json
import re
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator

from cxr_ray.config.metric_names import Mode, mode_of

Uncertain = Literal["zeros", "ones", "ignore", "smooth", "smooth_zeros"]

MetricName = Annotated[str, AfterValidator(lambda name: re.sub(r"/macro(?!\w)", "/mean", name))]
"""A metric, or a bound on one; `macro` becomes `mean`."""


class Section(BaseModel):
    """A frozen group of settings. An unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, validate_default=True)


class Split(Section):
    """Which rows are train, val and test."""

    by: Literal["patient", "image"] = "patient"
    """Unit of the split: all images of a patient go to the same part, or each image is assigned on its own."""
    val: float | Literal["official"] = 0.1
    """Fraction of the rows for val, or `official`: the dataset's own val list."""
    test: float | Literal["official"] = 0.2
    """Fraction of the rows for test, or `official`: the dataset's own test list; val is then taken from the rest."""
    seed: int = 0
    """Seed of the split only, so that runs with different `seed` are evaluated on the same rows."""
    folds: int | None = Field(default=None, ge=2)
    """k: the rows outside test are split into k folds, and one of them is val; `val` is then ignored."""
    fold: int = Field(default=0, ge=0)
    """Index of the fold that is val in this run, from 0."""
    leaks: Literal["refuse", "drop"] = "refuse"
    """If a patient or an image is in two parts of official lists: refuse to train, or drop its rows from train, then from val."""
    near_duplicates: int | None = Field(default=4, ge=0, le=12)
    """Warn of images in two parts whose 64-bit perceptual hashes differ in at most this many bits (copies differ in 0 to 4) and
    whose thumbnails correlate; null: no check."""

    @field_validator("val", "test")
    @classmethod
    def _share(cls, value: float | str) -> float | str:
        if not isinstance(value, str) and not 0.0 <= value < 1.0:
            raise ValueError("a fraction must be in [0, 1)")
        return value

    @model_validator(mode="after")
    def _fold(self) -> "Split":
        if self.folds is not None and self.fold >= self.folds:
            raise ValueError(f"fold: {self.fold} is not one of the {self.folds} folds, which are numbered from 0")
        if self.folds is not None and self.val == "official":
            raise ValueError("val: official and folds both define val; remove one of them")
        return self


class Data(Section):
    """The store, its rows and labels, and how raw label values become targets."""

    shards: str | None = None
    """Folder or URL (s3://, gs://, abfs://) of the store that `cxr-ray ingest` wrote. Required."""
    filters: Literal["default", "none"] | list[str] = "default"
    """default: the cleaning that the source declares; none; or a list of pandas queries: only rows that match all are used."""
    labels: str | list[str] = "all"
    """all, a group such as competition5, or a list of labels and groups."""
    groups: dict[str, list[str]] = {}
    """Your own label groups: name -> list of labels and groups. A group can be used wherever labels are named."""
    derive: dict[str, dict[Literal["any", "all"], list[str]]] = {}
    """New labels from several, such as {Any fracture: {any: [Rib fracture, Clavicle fracture]}}, or all. Unknown where the known
    labels do not decide; uncertain where an uncertain one could. They can be used wherever labels are named."""
    task: Literal["auto", "multilabel", "multiclass", "binary"] = "auto"
    """auto: the task of the store."""
    uncertain: Uncertain | dict[str, Uncertain] = "zeros"
    """Training target for uncertain (-1): one policy, or one per label or group (others: zeros). ignore masks the value, smooth
    samples from 0.55 to 0.85, smooth_zeros from 0 to 0.3."""
    blank: Literal["zeros", "ignore"] = "zeros"
    """Target for labels that the report does not mention, in training and evaluation: negative (zeros), or masked (ignore). Datasets
    with complete lists (padchest, covid_chestxray) have unknown labels instead, which are always masked."""
    eval_uncertain: Literal["zeros", "ones", "ignore"] = "ignore"
    """Target for uncertain in val and test. Independent of `uncertain`, so that runs are comparable."""
    split: Split = Split()
    limit: int | None = Field(default=None, ge=1)
    """Use about this many rows, for quick runs: random patients (by split.seed) of each part. The split itself does not change."""
    oversample_min_count: int = Field(default=0, ge=0)
    """Rows of rare label vectors are repeated until each vector occurs this often in a train epoch; 0 disables."""
    balance_warning: float = Field(default=0.02, ge=0.0, le=1.0)
    """Warn if a label or feature differs by more than this fraction of rows between train and val (0.02: 2 percentage points)."""
    image_size: tuple[int, int] | None = None
    """[height, width] in pixels of the model's input, at most the store's; null: the store's size."""
    normalize: Literal["dataset", "imagenet", "none"] | tuple[float, float] = "dataset"
    """dataset (mean and standard deviation of the train rows), imagenet, none, or [mean, std], for gray values in 0 to 1."""
    features: str | None = None
    """Folder that `cxr-ray embed MODEL SHARDS OUT` wrote: train `model.name: linear` on the features of the images instead of the
    images. Nothing is augmented then; normalize may be dataset (each feature by its train rows) or none."""
    cache: str = "auto"
    """Where each node caches a remote store: auto (cxr_ray/stores in $XDG_CACHE_HOME or ~/.cache), a folder, or none (each
    process downloads its own copy and deletes it at the end)."""
    verify: Literal["background", "manifest", "full", "none"] = "background"
    """What is checked: manifest (the manifest and all file sizes, when the store is opened), background (also every byte, on each node, while
    the images are first used: a change ends a training before its first epoch is kept, and an evaluation or prediction before its results
    are), full (every byte before a training starts), or none. What changes after the check is found at the next start."""

    @field_validator("derive")
    @classmethod
    def _one_rule(cls, derive: dict[str, dict[str, list[str]]]) -> dict[str, dict[str, list[str]]]:
        for name, rule in derive.items():
            if len(rule) != 1 or not all(rule.values()):
                raise ValueError(f"{name}: give any or all with at least one label, such as {{any: [Rib fracture]}}")
        return derive


class Augment(Section):
    """Random augmentation of train images, on the device; the random numbers depend on (seed, epoch, position)."""

    probability: float = Field(default=0.2, ge=0.0, le=1.0)
    """Probability of the affine transform, and independently of the intensity jitter, per image; 0 disables both."""
    degrees: float = Field(default=5.0, ge=0.0, le=180.0)
    """Rotation is sampled from [-degrees, degrees]."""
    translate: float = Field(default=0.05, ge=0.0, lt=1.0)
    """Largest shift, as a fraction of width and height."""
    shear: float = Field(default=5.0, ge=0.0, lt=90.0)
    """Horizontal shear is sampled from [-shear, shear] degrees."""
    scale: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Largest change of size; 0.1: factors from 0.9 to 1.1."""
    brightness: float = Field(default=0.2, ge=0.0, le=1.0)
    """Largest change of brightness; 0.2: gray values times 0.8 to 1.2."""
    contrast: float = Field(default=0.1, ge=0.0, le=1.0)
    """Largest change of contrast; 0.1: differences from the image's mean times 0.9 to 1.1."""
    flip: float = Field(default=0.0, ge=0.0, le=1.0)
    """Probability of a left-right flip. Off by default: a flip puts the heart on the wrong side."""
    erase: float = Field(default=0.0, ge=0.0, le=1.0)
    """Probability of random erasing: a rectangle is filled with the image's mean, after all other augmentations."""
    mixup: float = Field(default=0.0, ge=0.0)
    """Mixup within the global batch: images and targets are mixed with weights from Beta(mixup, mixup); 0 disables."""


class Model(Section):
    """The architecture, its stem, its head and its initial weights."""

    name: str = "resnet18"
    """A model that `cxr-ray models` lists."""
    stem: Literal["gray", "repeat"] = "gray"
    """gray: one input channel, pretrained colour filters summed; repeat: the gray image as three equal channels."""
    weights: str = "none"
    """none (random), imagenet, a file (.pth of torchvision, .safetensors of cxr_ray), or the folder of another run."""
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Dropout probability, in addition to the architecture's own dropout; 0 disables."""
    dropout_where: Literal["head", "maps"] = "head"
    """head: before the head; maps: complete feature maps after each activation (Dropout2d, added by hooks)."""
    head: Literal["replace", "append"] = "replace"
    """replace: a new head replaces the 1,000-class layer; append: a new linear layer follows the 1,000-class layer."""
    freeze_epochs: int = Field(default=0, ge=0)
    """First epochs in which only the head is trained; all other weights and batch norm statistics are frozen."""
    options: dict[str, Any] = {}
    """Options of this model; `cxr-ray models NAME` lists them."""


class Loss(Section):
    """The training loss, computed over the global batch."""

    name: str = "auto"
    """auto: cross_entropy for classes, bce for labels; focal, asymmetric and auc_margin are for labels."""
    pos_weight_power: float = Field(default=0.0, ge=0.0, le=1.0)
    """Weight of positives = (negatives / positives) ** power, from the train rows before oversampling; 0 disables."""
    reduction: Literal["mean", "sum"] = "mean"
    """mean or sum over the known targets of the global batch."""
    label_smoothing: float = Field(default=0.0, ge=0.0, lt=1.0)
    """How far targets are moved from 0 or 1 towards equal probabilities."""
    options: dict[str, Any] = {}
    """Options of this loss, such as gamma of focal."""


class Optim(Section):
    """Optimizer, learning rate schedule and moving average of the weights."""

    name: Literal["adam", "adamw", "sgd"] = "adam"
    """adam (L2 added to the gradient), adamw (decoupled weight decay), sgd (Nesterov momentum 0.9)."""
    lr: float = Field(default=1.0e-4, gt=0.0)
    """Highest learning rate."""
    weight_decay: float = Field(default=0.0, ge=0.0)
    """Weight decay factor (L2)."""
    decay_norms: bool = True
    """Apply weight decay to biases and norm weights too, as torch does; false excludes all one-dimensional parameters."""
    head_lr_factor: float = Field(default=1.0, gt=0.0)
    """Learning rate of the head, as a multiple of `lr`."""
    schedule: Literal["constant", "cosine", "onecycle", "step", "plateau"] = "constant"
    """Learning rate schedule after the warmup. cosine and onecycle decay to zero at the last step; step and plateau multiply by
    drop_factor."""
    drop_epochs: int = Field(default=10, ge=1)
    """step: epochs between drops; plateau: epochs without a better `train.monitor` before a drop."""
    drop_factor: float = Field(default=0.1, gt=0.0, lt=1.0)
    """Factor of the learning rate at each drop of step or plateau."""
    warmup_epochs: float = Field(default=0.0, ge=0.0)
    """Epochs of linear warmup from zero; must be 0 for onecycle, which has its own."""
    clip_norm: float | None = Field(default=None, gt=0.0)
    """Gradients are clipped to this norm; null: no clipping."""
    ema: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Decay of the exponential moving average of the weights, which is then evaluated and saved; 0 disables."""

    @model_validator(mode="after")
    def _one_rise(self) -> "Optim":
        if self.schedule == "onecycle" and self.warmup_epochs:
            raise ValueError("onecycle warms up in its first 30% of steps: leave warmup_epochs at 0")
        return self


class Train(Section):
    """Training loop, workers, checkpoints and early stopping."""

    epochs: int = Field(default=4, ge=0)
    """Passes over the train rows; 0 only evaluates the untrained model."""
    batch_size: int = Field(default=64, ge=1)
    """Rows of a global batch, shared by all workers: the same samples in the same order with any number of workers."""
    micro_batch: Annotated[int, Field(ge=1)] | Literal["auto"] | None = None
    """Rows that a worker processes at once (gradient accumulation). null: its complete share of the batch; auto: the share, halved
    until it fits the GPU's memory (on CPU the worker's complete share is used)."""
    workers: int = Field(default=1, ge=1)
    """Processes that share each global batch."""
    min_workers: int | None = Field(default=None, ge=1)
    """Elastic training: continue with at least this many workers if nodes are lost, and with `workers` once they are back. The
    batches stay the same. null: always exactly `workers`."""
    gpu: Literal["auto"] | bool = "auto"
    """Train on GPUs; auto: if there are enough, with those that the cluster's autoscaler may start."""
    resources_per_worker: dict[str, float] = {}
    """Resources that Ray reserves per worker, such as {CPU: 4}; empty: one CPU, and one GPU if GPUs are used."""
    threads: int | None = Field(default=None, ge=1)
    """Torch threads per worker; null: all cores when training in this process, else the worker's CPUs."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """auto: bf16 and channels_last if the CPU (AMX, AVX512-BF16) or the GPU multiplies bf16, else fp32. fp16 uses gradient scaling."""
    compile: bool = False
    """Compile the training step with torch.compile: the first steps take about a minute, later ones are faster."""
    sync_batch_norm: bool = False
    """Batch norm statistics over the global batch instead of each worker's share. Only on GPUs, without `micro_batch`, and if every
    worker has rows in every batch."""
    monitor: MetricName = "val/auroc/mean"
    """Metric that selects the best checkpoint, such as val/f1/mean or val/recall_at_precision_0.5/mean (0.1, 0.25, 0.5, 0.75, 0.9).
    For multiclass tasks the default is val/accuracy."""
    monitor_mode: Literal["auto"] | Mode = "auto"
    """Whether a larger or smaller value of `monitor` is better; auto: min for loss, hamming, brier and ece, else max."""
    select: Literal["best", "last"] = "best"
    """The epoch whose weights become the run's model: the best by `monitor`, or the last (no selection on val)."""
    log_rows: bool = False
    """Log the row numbers of every step and rank, in order, to rows/rank-N.csv in the run's folder."""
    patience: int | None = Field(default=None, ge=1)
    """Early stopping: end after this many epochs without a better `monitor`; null: never."""
    checkpoint_minutes: float | None = Field(default=10.0, gt=0.0)
    """Minutes between checkpoints within an epoch, in addition to the one at its end; null: only at its end."""
    max_time: float | None = Field(default=None, gt=0.0)
    """Minutes of training, summed over restarts, after which the run ends and is finished; null: no limit."""
    max_failures: int = Field(default=3, ge=0)
    """How often lost or failed workers are restarted from the last checkpoint. Waiting for room on the cluster does not count."""

    @model_validator(mode="after")
    def _elastic(self) -> "Train":
        if self.min_workers is not None and self.min_workers > self.workers:
            raise ValueError(f"min_workers: {self.min_workers} is more than workers: {self.workers}")
        return self

    @model_validator(mode="after")
    def _in_step(self) -> "Train":
        if self.sync_batch_norm and self.micro_batch is not None:
            raise ValueError(
                "sync_batch_norm and micro_batch: workers with different numbers of micro-batches would wait for each other "
                "forever; remove one of them"
            )
        return self

    @property
    def mode(self) -> Mode:
        """Whether a larger or smaller value of `monitor` is better."""
        return mode_of(self.monitor, self.monitor_mode)


class Report(Section):
    """Evaluation, reports and trackers."""

    labels: str | list[str] = "all"
    """Labels in the log line of an epoch: all, a group, or a list. Tables and reports always contain every label."""
    thresholds: float | Literal["youden", "f1"] | dict[str, float] = 0.5
    """Positive is probability >= threshold. One number, or one per label or group (others: 0.5), or a rule applied on val:
    youden, f1, {recall: 0.9} (at least 0.9, with the highest precision), {specificity: 0.9}."""
    assurance: float | None = Field(default=0.95, gt=0.0, lt=1.0)
    """Probability that a recall or specificity rule also holds on new data: thresholds have a margin for it; null: no margin."""
    bootstrap: int = Field(default=1000, ge=0)
    """Bootstrap resamples for confidence intervals; 0 disables intervals."""
    interval_by: Literal["patient", "image"] = "patient"
    """Unit of the bootstrap: resample patients or images."""
    interval: Literal["percentile", "bca"] = "percentile"
    """Bootstrap interval: percentile, or bias-corrected and accelerated (bca)."""
    images: bool = True
    """Show the images of the worst false negatives and false positives in the report; false: no patient image leaves the store."""
    keep_predictions: bool = False
    """Save the predictions on train and val of every epoch."""
    trackers: list[Literal["tensorboard", "mlflow"]] = ["tensorboard"]
    """Trackers that also log the metrics. mlflow: to MLFLOW_TRACKING_URI, else to mlflow.db next to the runs."""
    rivals: bool = True
    """Also evaluate the trivial baselines: logistic regressions on a thumbnail and on the image border."""


class Tune(Section):
    """Hyperparameter search: many trials on one store, evaluated on the same val rows and targets."""

    trials: int = Field(default=16, ge=1)
    """Number of trials of random and optuna, in addition to the base configuration (`base`); grid and list run all their combinations."""
    metric: MetricName | list[MetricName] = "val/auroc/mean"
    """Objective: the metric of a trial at its best epoch. Several metrics: the result is the Pareto front."""
    mode: Literal["auto"] | Mode | list[Literal["auto"] | Mode] = "auto"
    """Whether a larger or smaller metric is better, one for all or one per metric; auto: as for `train.monitor_mode`."""
    constraint: MetricName | list[MetricName] | None = None
    """Condition that the best trial must also meet, such as "val/recall/mean >= 0.8". A scheduler ranks a trial lower by the amount
    that it misses."""
    search: Literal["random", "grid", "optuna", "list"] = "random"
    """random; grid: every combination of choices (with asha in random order, by `seed`); optuna: guided by earlier trials; list:
    `combinations`."""
    scheduler: Literal["asha", "none", "pbt"] = "asha"
    """asha stops worse trials early; pbt copies weights from better trials and changes hyperparameters during training."""
    grace_epochs: Literal["auto"] | Annotated[int, Field(ge=1)] = "auto"
    """asha: epochs before a trial may be stopped; pbt: epochs between changes; auto: 30 steps, at most a third of the epochs."""
    reduction: float = Field(default=3.0, gt=1.0)
    """asha: reduction factor eta: the best 1/eta of the trials continue at each rung (3, as Li et al., JMLR 2018 advise)."""
    base: bool = True
    """Also train the base configuration, as trial 0: the improvement of the search is measured against it."""
    folds: int | None = Field(default=None, ge=2)
    """k: train each trial on k folds by patient and use the mean of the metric. Needs `scheduler: none`; not with search optuna."""
    ensemble: int = Field(default=0, ge=0)
    """Also evaluate an ensemble of this many best trials (mean of probabilities); 0: none. Ignored with folds: the folds of the best
    trial always form an ensemble."""
    max_concurrent: Literal["auto"] | int = "auto"
    """Concurrent trials; auto: as many as the cluster's resources allow. With pbt leave it at auto: all trials take turns."""
    trial_gpus: float | None = Field(default=None, gt=0.0)
    """GPUs for a trial of one worker: 0.25 puts four trials on one GPU; null: one GPU, if available."""
    max_time: float | None = Field(default=None, gt=0.0)
    """Minutes after which no trial is started and running trials end with their results so far; null: no limit."""
    retries: int = Field(default=1, ge=0)
    """How often a trial that crashed (killed, out of memory, hung) is restarted from its last checkpoint."""
    hang_minutes: float = Field(default=30.0, gt=0.0)
    """A trial that reports nothing for this many minutes is killed and counts as crashed."""
    space: dict[str, Any] = {}
    """Search space by setting, such as optim.lr: {loguniform: [a, b]}, {uniform: [a, b]}, {integer: [a, b]} (inclusive) or
    {choice: [...]}."""
    combinations: list[dict[str, Any]] = []
    """For search list: each combination maps settings, such as optim.lr, to values."""

    @field_validator("max_concurrent")
    @classmethod
    def _some(cls, value: int | str) -> int | str:
        if isinstance(value, int) and value < 1:
            raise ValueError("must be auto, or at least 1")
        return value

    @model_validator(mode="after")
    def _fits(self) -> "Tune":
        if isinstance(self.mode, list) and len(self.mode) != len(self.metrics):
            raise ValueError(
                f"mode: {len(self.mode)} modes for {len(self.metrics)} metrics; give one for all, or one per metric"
            )
        if not self.metrics:
            raise ValueError("metric: an empty list; name at least one, such as val/auroc/mean")
        return self

    @property
    def metrics(self) -> list[str]:
        """The objectives, as a list."""
        return [self.metric] if isinstance(self.metric, str) else list(self.metric)

    @property
    def modes(self) -> list[Mode]:
        """The mode of each objective."""
        asked = self.mode if isinstance(self.mode, list) else [self.mode] * len(self.metrics)
        return [mode_of(metric, one) for metric, one in zip(self.metrics, asked, strict=True)]


class Config(Section):
    """All settings of a run, and of the sweep around it."""

    name: str | None = None
    """Name of the run; null: date, model and a short hash of the config."""
    output: str = "runs"
    """Folder for runs."""
    seed: int = 0
    """Seed of all random numbers except the split's."""
    seeds: int = Field(default=1, ge=1)
    """`cxr-ray train` trains this many runs in sequence, with seed, seed + 1, ...; `cxr-ray compare` shows how much they differ."""
    plugins: list[str] = []
    """Python modules that register more sources, models, losses or metrics."""
    data: Data = Data()
    augment: Augment = Augment()
    model: Model = Model()
    loss: Loss = Loss()
    optim: Optim = Optim()
    train: Train = Train()
    report: Report = Report()
    tune: Tune = Tune()

    def digest(self) -> str:
        """Ten hex digits over all settings except `name` and `output`: equal digests mean the same experiment."""
        skip = {"name", "output"} | ({"tune"} if self.tune == Tune() else set())
        settings = self.model_dump(mode="json", exclude=skip)
        for later in ("derive", "features"):  # configs of earlier versions keep their digest
            if not settings["data"][later]:
                del settings["data"][later]
        settings["data"]["verify"] = "manifest"  # changes no result; earlier versions' default
        body = json.dumps(settings, sort_keys=True)
        return hashlib.sha256(body.encode()).hexdigest()[:10]

    def for_task(self, task: str) -> "Config":
        """This config with `train.monitor` resolved: `val/accuracy` for multiclass tasks if it was not set."""
        if task == "multiclass" and "monitor" not in self.train.model_fields_set:
            return self.model_copy(update={"train": self.train.model_copy(update={"monitor": "val/accuracy"})})
        return self

    def to_yaml(self) -> str:
        """The complete resolved config as YAML; `tune` only if it differs from its defaults."""
        skip = {"tune"} if self.tune == Tune() else set()
        return yaml.safe_dump(self.model_dump(mode="json", exclude=skip), sort_keys=False, allow_unicode=True)

"""The model, its optimiser, the training step over a global batch, and predictions. Knows the epoch number; never touches files."""
# N rows of this rank, L labels, P running means and variances of batch norm

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from cxr_ray import config as cfg
from cxr_ray import models
from cxr_ray.data import loader, mixup
from cxr_ray.data.plan import Plan
from cxr_ray.errors import UserError
from cxr_ray.models import norms
from cxr_ray.runtime import distributed, memory, precision
from cxr_ray.runtime.context import Context
from cxr_ray.training import build, export, optim
from cxr_ray.training.augment import augment
from cxr_ray.training.checkpoint import Checkpoint, Tensors


class Learner:
    """What changes from step to step, on one rank. Every rank makes the same calls."""

    def __init__(self, config: cfg.Config, plan: Plan, store: loader.TrainingStore, context: Context) -> None:
        self._config, self._store, self._context = config, store, context
        self._device, train = context.device, config.train
        self.precision = precision.pick(train.precision, self._device)
        if self._device.type == "cuda":  # shapes are constant, so benchmarking cuDNN's kernels pays off
            torch.backends.cudnn.benchmark = True
        # If the weights file is missing on one node, all ranks raise the error.
        self.loss, self.model = distributed.all_or_none(lambda: build.initial(config, plan, store))
        if train.sync_batch_norm:
            norms.synchronize(self.model, self._device, train, rows=int(plan.repeats.sum()), world=context.world)
        self.model.to(self._device, memory_format=self.precision.layout)
        self._optimizer = optim.build(self.model, config.optim, self.model.head_parameters())
        self._scaler = self.precision.scaler(self._device)
        self._ema = optim.Ema(self.model, config.optim.ema) if config.optim.ema else None
        self._micro_batch_rows = self._micro_batch_size()
        self.eval_batch_size = self._micro_batch_rows if train.micro_batch else train.batch_size
        """Batch size of predictions."""
        self._net = self._wrap()
        self.labels = len(plan.labels)
        """L, the model's outputs."""
        self.samples_per_epoch = int(plan.repeats.sum())
        self.steps_per_epoch = -(-self.samples_per_epoch // train.batch_size)
        self.steps = 0
        """Optimiser steps since the training began."""

    def begin(self, epoch: int) -> None:
        """Prepare for the steps of an epoch: freeze or unfreeze the backbone, set train mode."""
        if self.model.freeze(epoch <= self._config.model.freeze_epochs):
            self._net = self._wrap()
        self._net.train()

    def step(self, batch: loader.Batch, *, epoch: int, drops: int) -> tuple[torch.Tensor, torch.Tensor]:
        """One optimiser step over a global batch; `drops` is how often the learning rate has dropped.

        Returns this rank's logits [N, L] in fp32 and its part of the loss, without waiting for the device. Raises `OutOfMemory`,
        and `UserError` if the model cannot be compiled."""
        config, world = self._config, self._context.world
        torch.manual_seed(_step_seed(config.seed, self.steps, self._context.rank))
        rate = optim.learning_rate(
            config.optim, self.steps, steps_per_epoch=self.steps_per_epoch, epochs=config.train.epochs, drops=drops
        )
        optim.set_learning_rate(self._optimizer, rate)
        self._optimizer.zero_grad(set_to_none=True)
        # Every rank knows the number of known cells of the global batch. DDP averages over ranks, so each multiplies by their number.
        cells = self.loss.cells(batch.global_truth) if config.loss.reduction == "mean" else 1
        scale = world / max(1, cells)
        with _compile_errors(config.train.compile), memory.explain_out_of_memory():
            logits, loss = self._forward_backward(batch, epoch, scale)
        if config.optim.clip_norm is not None:
            self._scaler.unscale_(self._optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), config.optim.clip_norm)
        self._scaler.step(self._optimizer)
        self._scaler.update()
        self.steps += 1
        if self._ema is not None:
            self._ema.update(self.model, self.steps)
        return logits, loss

    def predict(self, rows: npt.NDArray[np.int64], *, stop: Callable[[], bool]) -> torch.Tensor | None:
        """Logits [N, L] in fp32, on the device, of store rows [N], in their order, in eval mode.

        Uses the moving average of the weights if there is one. None if `stop()`, called after every batch, returns true."""
        device, store = self._device, self._store
        model = self.model if self._ema is None else self._ema.model
        model.eval()
        # Made once, not a list of tensors: see `gathered.EpochOutputs`.
        logits_NL = torch.empty((len(rows), self.labels), device=device)
        with torch.inference_mode():
            for here, pixels in loader.eval_batches(
                store, rows, batch_size=self.eval_batch_size, to_memory=memory.pin_for(device)
            ):
                with self.precision.autocast(device):
                    logits_NL[here] = model(torch.from_numpy(pixels).to(device, non_blocking=True))
                if stop():
                    return None
        return logits_NL

    def is_finite(self) -> bool:
        """Whether all weights, moments and running statistics are finite, on every rank.

        A step with a finite loss may lead to weights that are not."""
        moments = [v for slots in self._optimizer.state.values() for v in slots.values() if isinstance(v, torch.Tensor)]
        tensors = [*self.model.parameters(), distributed.running_statistics(self.model), *moments]
        bad = ~torch.stack([tensor.detach().isfinite().all().to(self._device) for tensor in tensors]).all()
        return not distributed.max_over_ranks(bad.float()).item()

    # -- state --------------------------------------------------------------------------------------------------

    def tensors(self) -> Tensors:
        """The model's weights and their moving average, if there is one, as a checkpoint stores them."""
        return export.merge_ema(self.model.state_dict(), {} if self._ema is None else self._ema.state_dict())

    def optimizer_state(self) -> dict[str, Any]:
        """The optimiser's `state_dict()`."""
        return self._optimizer.state_dict()

    def state(self) -> dict[str, Any]:
        """The rest of the state in plain JSON: step, gradient scaler."""
        return {"step": self.steps, "scaler": self._scaler.state_dict()}

    def load(self, checkpoint: Checkpoint) -> None:
        """Load all of these states."""
        weights, average = export.split_ema(checkpoint.model)
        self.model.load_state_dict(weights)
        if self._ema is not None:
            self._ema.load_state_dict(average)
        optim.load_state(self._optimizer, checkpoint.optimizer)
        self._scaler.load_state_dict(checkpoint.state["scaler"])
        self.steps = checkpoint.state["step"]

    def running_statistics(self) -> torch.Tensor:
        """Running statistics [ranks, P] of every rank, on every rank; with those of the moving average."""
        own = torch.cat([distributed.running_statistics(model) for model in self._models()])[None]
        return distributed.gather_rows(own) if own.numel() else own

    def set_running_statistics(self, running: torch.Tensor) -> None:
        """Load what `running_statistics` returned: each rank its own, or all the mean if the number of ranks has changed."""
        same_world = len(running) == self._context.world
        own = (running[self._context.rank] if same_world else running.mean(dim=0)).to(self._device)
        for model in self._models():
            size = len(distributed.running_statistics(model))
            distributed.set_running_statistics(model, own[:size])
            own = own[size:]

    def average_running_statistics(self) -> None:
        """Average the running statistics over the ranks, each of which saw different rows."""
        for model in self._models():
            distributed.average_running_statistics(model)

    def _models(self) -> list[nn.Module]:
        """The trained model and its moving average, if there is one."""
        return [self.model] if self._ema is None else [self.model, self._ema.model]

    # -- within a step ------------------------------------------------------------------------------------------

    def _wrap(self) -> nn.Module:
        """The model, in DDP if there are several ranks. Called again whenever the set of weights with gradients changes."""
        net: nn.Module = self.model
        if self._context.world > 1:
            self._net = self.model
            gc.collect()  # an earlier DDP must be gone: its hooks would wait for gradients that never come
            ids = [self._device.index] if self._device.type == "cuda" else None
            # Running statistics differ between ranks in training and are averaged before evaluation. Gradients are views of the
            # communication buckets, which saves a copy in memory and in each step.
            net = DistributedDataParallel(
                self.model, device_ids=ids, broadcast_buffers=False, gradient_as_bucket_view=True
            )
        return torch.compile(net) if self._config.train.compile else net  # type: ignore[return-value]

    def _micro_batch_size(self) -> int:
        """Rows of this rank's share that run forward and backward at once, the same on every rank."""
        share = -(-self._config.train.batch_size // self._context.world)
        configured = self._config.train.micro_batch
        if configured != "auto":
            return configured or share
        buffers = {name: value.clone() for name, value in self.model.named_buffers()}

        def step(rows: int) -> None:
            moments = [torch.empty_like(p) for p in self.model.parameters() for _ in range(2)]  # noqa: F841 - takes memory
            with self.precision.autocast(self._device):
                logits = models.head_logits(self.model(torch.zeros((rows, *self._store.size), device=self._device)))
            torch.stack([one.float().sum() for one in logits]).sum().backward()

        self.model.train()
        rows = distributed.all_or_none(lambda: memory.rows_that_fit(step, share))
        self.model.zero_grad(set_to_none=True)
        for name, value in self.model.named_buffers():  # undo the running statistics of the blank images
            value.copy_(buffers[name])
        rows = -int(distributed.max_over_ranks(torch.tensor(-rows, device=self._device)))
        if self._context.rank == 0 and rows < share:
            self._context.log(
                f"micro-batches of {rows} rows: a worker's share of {share} does not fit into memory at once"
            )
        return rows

    def _forward_backward(self, batch: loader.Batch, epoch: int, scale: float) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute the gradients of this rank's share in micro-batches; returns its logits [N, L] in fp32 and its loss."""
        count = len(batch.rows)
        images = torch.from_numpy(batch.images).to(self._device, non_blocking=True)
        truth = torch.from_numpy(batch.truth).to(self._device, non_blocking=True)
        # Copied before slicing: for a part of a pinned page torch does not know when the copy is done and the page is free.
        others = (
            None if batch.mixed is None else torch.from_numpy(batch.mixed.images).to(self._device, non_blocking=True)
        )
        size = self._micro_batch_rows
        all_logits = []
        loss = torch.zeros((), device=self._device)
        # A rank without rows in the last, short batch still runs forward and backward: the model gives empty logits that depend on
        # every weight, so this rank contributes zeros to the all-reduce of the others.
        for start in range(0, max(1, count), size):
            piece = slice(start, start + size)
            last = start + size >= count
            pixels = self._augment(images[piece], None if others is None else others[piece], batch, piece, epoch)
            sync = nullcontext() if last or self._context.world == 1 else self._net.no_sync()  # type: ignore[operator]
            with sync:
                with self.precision.autocast(self._device):
                    logits, *auxiliary = models.head_logits(self._net(pixels))
                total = self.loss.total(logits.float(), truth[piece])
                for head in auxiliary:
                    total = total + self.model.auxiliary_weight * self.loss.total(head.float(), truth[piece])
                self._scaler.scale(total * scale).backward()
            loss += total.detach()
            all_logits.append(logits.detach().float())
        return torch.cat(all_logits), loss

    def _augment(
        self, images: torch.Tensor, others: torch.Tensor | None, batch: loader.Batch, piece: slice, epoch: int
    ) -> torch.Tensor:
        """A piece of the batch, augmented and, with mixup, mixed with the images `others`, which are augmented by their own positions."""
        augment_at = partial(augment, config=self._config.augment, seed=self._config.seed, epoch=epoch)
        pixels = augment_at(images, positions=batch.positions[piece])
        if others is None or batch.mixed is None:
            return pixels
        others = augment_at(others, positions=batch.mixed.positions[piece])
        return mixup.blend(pixels, others, batch.mixed.share[piece])


@contextmanager
def _compile_errors(enabled: bool) -> Iterator[None]:
    """Raises `UserError` if torch.compile fails: a compiler is missing, or the model is not supported."""
    try:
        yield
    except Exception as error:
        if not enabled or not isinstance(error, torch._dynamo.exc.TorchDynamoException):
            raise
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise UserError(
            f"torch.compile cannot compile this model here ({reason[:200]}): set train.compile to false, or install what is "
            "missing (on a CPU a C++ compiler, g++)"
        ) from error


def _step_seed(seed: int, step: int, rank: int) -> int:
    """The random seed of a step, so that a resumed run needs no saved generator state."""
    return int(np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)[0])

"""What learns: the model, its optimiser, one step over a global batch, predictions. Of epochs it knows the number, of files nothing."""
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
from cxr_ray import losses, models
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
    """One rank's side of what moves from step to step. Every rank makes the same calls."""

    def __init__(self, config: cfg.Config, plan: Plan, store: loader.Data, context: Context) -> None:
        self._config, self._store, self._context = config, store, context
        self._device, train = context.device, config.train
        self.precision = precision.pick(train.precision, self._device)
        if self._device.type == "cuda":  # shapes stay the same, so that trying cuDNN's kernels out pays
            torch.backends.cudnn.benchmark = True
        torch.manual_seed(config.seed)
        self.loss = losses.build(
            config.loss,
            task=plan.task,
            weight_L=plan.pos_weight,
            whole=train.micro_batch is None,
            mixed=config.augment.mixup > 0.0,
        )
        # A file of weights that one node lacks is known to all.
        self.model = distributed.all_or_none(lambda: build.build(config, plan, store))
        if train.sync_batch_norm:
            norms.over_ranks(self.model, self._device, train, rows=int(plan.repeats.sum()), world=context.world)
        self.model.to(self._device, memory_format=self.precision.layout)
        self._optimizer = optim.build(self.model, config.optim, self.model.head_parameters())
        self._scaler = self.precision.scaler(self._device)
        self._ema = optim.Ema(self.model, config.optim.ema) if config.optim.ema else None
        self._rows_at_once = self._rows_that_fit()
        self.eval_batch_size = self._rows_at_once if train.micro_batch else train.batch_size
        """Rows of a batch that is predicted."""
        self._net = self._together()
        self.steps_per_epoch = -(-int(plan.repeats.sum()) // train.batch_size)
        self.steps = 0
        """Done, since the training began."""

    def begin(self, epoch: int) -> None:
        """Be ready for the steps of an epoch: what is frozen in it gets no gradient."""
        if self.model.freeze(epoch <= self._config.model.freeze_epochs):
            self._net = self._together()
        self._net.train()

    def step(self, batch: loader.Batch, *, epoch: int, drops: int) -> tuple[torch.Tensor, torch.Tensor]:
        """One optimiser step over a global batch, at a rate that has dropped so often: this rank's logits [N, L] in fp32 and its
        part of the loss, neither waited for. Raises `OutOfMemory`, and `UserError` where the model cannot be compiled."""
        config, world = self._config, self._context.world
        torch.manual_seed(_mix(config.seed, self.steps, self._context.rank))
        rate = optim.rate(
            config.optim, self.steps, steps_per_epoch=self.steps_per_epoch, epochs=config.train.epochs, drops=drops
        )
        optim.set_rate(self._optimizer, rate)
        self._optimizer.zero_grad(set_to_none=True)
        # Every rank knows the known cells of the whole batch; DDP averages over ranks, so each scales by the world.
        cells = self.loss.cells(batch.global_truth) if config.loss.reduction == "mean" else 1
        scale = world / max(1, cells)
        with _compiling(config.train.compile), memory.enough():
            outputs, loss = self._forward_backward(batch, epoch, scale)
        if config.optim.clip_norm is not None:
            self._scaler.unscale_(self._optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), config.optim.clip_norm)
        self._scaler.step(self._optimizer)
        self._scaler.update()
        self.steps += 1
        if self._ema is not None:
            self._ema.update(self.model, self.steps)
        return outputs, loss

    def predict(self, rows: npt.NDArray[np.int64], *, stop: Callable[[], bool]) -> torch.Tensor | None:
        """Logits [N, L] in fp32, on the device, of store rows [N], in their order, of what is kept: the moving average of the weights
        where there is one, in eval mode. None where `stop()`, asked after every batch, is true."""
        device, store = self._device, self._store
        model = self.model if self._ema is None else self._ema.model
        model.eval()
        outputs = []
        with torch.inference_mode():
            for _, pixels in loader.eval_batches(
                store, rows, batch_size=self.eval_batch_size, hold=memory.holder(device)
            ):
                with self.precision.autocast(device):
                    outputs.append(model(torch.from_numpy(pixels).to(device, non_blocking=True)).float())
                if stop():
                    return None
            if not outputs:
                outputs.append(model(torch.zeros((0, *store.size), dtype=torch.uint8, device=device)).float())
        return torch.cat(outputs)

    def is_finite(self) -> bool:
        """Whether all weights, moments and running statistics are numbers, on every rank: a finite loss may have made a step to
        weights that are not."""
        moments = [v for slots in self._optimizer.state.values() for v in slots.values() if isinstance(v, torch.Tensor)]
        held = [*self.model.parameters(), distributed.running_statistics(self.model), *moments]
        bad = ~torch.stack([tensor.detach().isfinite().all().to(self._device) for tensor in held]).all()
        return not distributed.most_of_ranks(bad.float()).item()

    # -- state --------------------------------------------------------------------------------------------------

    def tensors(self) -> Tensors:
        """The model's weights and, where one is kept, their moving average, as a checkpoint holds them."""
        return export.merge_ema(self.model.state_dict(), {} if self._ema is None else self._ema.state_dict())

    def optimizer_state(self) -> dict[str, Any]:
        """The optimiser's `state_dict()`."""
        return self._optimizer.state_dict()

    def state(self) -> dict[str, Any]:
        """The rest of it in plain JSON: step, scaler."""
        return {"step": self.steps, "scaler": self._scaler.state_dict()}

    def load(self, held: Checkpoint) -> None:
        """Take all of that up again."""
        weights, average = export.split_ema(held.model)
        self.model.load_state_dict(weights)
        if self._ema is not None:
            self._ema.load_state_dict(average)
        optim.load_state(self._optimizer, held.optimizer)
        self._scaler.load_state_dict(held.state["scaler"])
        self.steps = held.state["step"]

    def running(self) -> torch.Tensor:
        """Every rank's own running statistics [ranks, P] on every rank, of the moving average besides."""
        mine = torch.cat([distributed.running_statistics(model) for model in self._models()])[None]
        return distributed.gather_rows(mine) if mine.numel() else mine

    def set_running(self, running: torch.Tensor) -> None:
        """Take up what `running` gave: as many ranks as then take their own, others the mean."""
        same = len(running) == self._context.world
        mine = (running[self._context.rank] if same else running.mean(dim=0)).to(self._device)
        for model in self._models():
            size = len(distributed.running_statistics(model))
            distributed.set_running_statistics(model, mine[:size])
            mine = mine[size:]

    def average_running(self) -> None:
        """Let the ranks, each of which saw other rows, have the same running statistics."""
        for model in self._models():
            distributed.average_running_statistics(model)

    def _models(self) -> list[nn.Module]:
        """The model that is trained and, where one is kept, its moving average."""
        return [self.model] if self._ema is None else [self.model, self._ema.model]

    # -- within a step ------------------------------------------------------------------------------------------

    def _together(self) -> nn.Module:
        """The model, or what averages its gradients over the ranks: made anew whenever other weights get gradients."""
        net: nn.Module = self.model
        if self._context.world > 1:
            self._net = self.model
            gc.collect()  # one made before must be gone: its hooks would wait for gradients that do not come
            ids = [self._device.index] if self._device.type == "cuda" else None
            # Each rank keeps its own running statistics while training; they are averaged before judging. Gradients are
            # views of what is sent, which saves a copy of them all, in memory and in each step.
            net = DistributedDataParallel(
                self.model, device_ids=ids, broadcast_buffers=False, gradient_as_bucket_view=True
            )
        return torch.compile(net) if self._config.train.compile else net  # type: ignore[return-value]

    def _rows_that_fit(self) -> int:
        """Rows of this rank's share that run forward and backward together, the same on every rank."""
        share = -(-self._config.train.batch_size // self._context.world)
        asked = self._config.train.micro_batch
        if asked != "auto":
            return asked or share
        buffers = {name: value.clone() for name, value in self.model.named_buffers()}

        def step(rows: int) -> None:
            moments = [torch.empty_like(p) for p in self.model.parameters() for _ in range(2)]  # noqa: F841 - room for them
            with self.precision.autocast(self._device):
                logits = models.every_head(self.model(torch.zeros((rows, *self._store.size), device=self._device)))
            torch.stack([one.float().sum() for one in logits]).sum().backward()

        self.model.train()
        rows = distributed.all_or_none(lambda: memory.rows_that_fit(step, share))
        self.model.zero_grad(set_to_none=True)
        for name, value in self.model.named_buffers():  # running statistics of pictures that were none
            value.copy_(buffers[name])
        rows = -int(distributed.most_of_ranks(torch.tensor(-rows, device=self._device)))
        if self._context.rank == 0 and rows < share:
            self._context.log(
                f"micro-batches of {rows} rows: a worker's share of {share} does not fit the memory at once"
            )
        return rows

    def _forward_backward(self, batch: loader.Batch, epoch: int, scale: float) -> tuple[torch.Tensor, torch.Tensor]:
        """Gradients of this rank's share, in pieces of the rows that run at once; its logits [N, L] in fp32, and its loss."""
        count = len(batch.rows)
        images = torch.from_numpy(batch.images).to(self._device, non_blocking=True)
        truth = torch.from_numpy(batch.truth).to(self._device, non_blocking=True)
        # Whole: of a part of a pinned page torch does not know when its copy is done and the page may be used again.
        others = (
            None if batch.mixed is None else torch.from_numpy(batch.mixed.images).to(self._device, non_blocking=True)
        )
        size = self._rows_at_once
        outputs = []
        summed = torch.zeros((), device=self._device)
        # A rank that the last short batch leaves without rows still runs forward and backward: the model gives empty
        # logits that hang on every weight, and the other ranks' all-reduce is answered with zeros.
        for start in range(0, max(1, count), size):
            piece = slice(start, start + size)
            last = start + size >= count
            pixels = self._changed(images[piece], None if others is None else others[piece], batch, piece, epoch)
            quiet = nullcontext() if last or self._context.world == 1 else self._net.no_sync()  # type: ignore[operator]
            with quiet:
                with self.precision.autocast(self._device):
                    logits, *auxiliary = models.every_head(self._net(pixels))
                total = self.loss.total(logits.float(), truth[piece])
                for extra in auxiliary:
                    total = total + self.model.auxiliary_weight * self.loss.total(extra.float(), truth[piece])
                self._scaler.scale(total * scale).backward()
            summed += total.detach()
            outputs.append(logits.detach().float())
        return torch.cat(outputs), summed

    def _changed(
        self, images: torch.Tensor, others: torch.Tensor | None, batch: loader.Batch, piece: slice, epoch: int
    ) -> torch.Tensor:
        """A piece of the batch, augmented and, with mixup, mixed with its others, which are augmented as their own places say."""
        change = partial(augment, config=self._config.augment, seed=self._config.seed, epoch=epoch)
        pixels = change(images, positions=batch.positions[piece])
        if others is None or batch.mixed is None:
            return pixels
        others = change(others, positions=batch.mixed.positions[piece])
        return mixup.blend(pixels, others, batch.mixed.share[piece])


@contextmanager
def _compiling(asked: bool) -> Iterator[None]:
    """What torch.compile cannot do is the user's to mend: a compiler is missing, or a model is beyond it."""
    try:
        yield
    except Exception as error:
        if not asked or not isinstance(error, torch._dynamo.exc.TorchDynamoException):
            raise
        said = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise UserError(
            f"torch.compile cannot make this model's code here ({said[:200]}): set train.compile to false, or install what it "
            "lacks (on a processor a C++ compiler, g++)"
        ) from error


def _mix(seed: int, step: int, rank: int) -> int:
    """A generator's seed from (seed, step, rank): counted, not carried, so that a resumed run needs no saved generator."""
    return int(np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)[0])

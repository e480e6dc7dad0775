"""Fit and judge: plain PyTorch over batches of a store. A `Context` says rank, world, device, report and restore; Ray is
never imported here. One loop, three homes: a debugger, a Ray Train worker, a Tune trial.
"""
# N rows of this rank, M rows of all ranks, L labels

import csv
import gc
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from cxr_ray import (
    batches,
    checkpoints,
    distributed,
    judging,
    kept,
    losses,
    memory,
    metrics,
    mixup,
    models,
    optim,
    precision,
    trackers,
)
from cxr_ray import config as cfg
from cxr_ray.augment import augment
from cxr_ray.context import Context
from cxr_ray.errors import UserError
from cxr_ray.history import History
from cxr_ray.metrics import Value
from cxr_ray.models import norms
from cxr_ray.plan import Plan
from cxr_ray.runs import Run, predictions_table
from cxr_ray.watch import Answer, Watch

SAY_EVERY_S = 30.0


class Judged(NamedTuple):
    """A part's logits [M, L] (fp32, CPU, all ranks' rows in order) and what they are judged by [M, L]."""

    rows: npt.NDArray[np.int64]
    logits: torch.Tensor
    truth: npt.NDArray[np.float32]


def fit(config: cfg.Config, plan: Plan, store: kept.Data, context: Context, run: Run) -> dict[str, float]:
    """Train `config`'s model on the plan's train rows and judge val at epoch 0 and after every epoch.

    Goes on from the run's last whole checkpoint where there is one. Every rank calls it; rank 0 writes the run folder.
    Returns the last epoch's metrics by name. The model that the run keeps (`train.select`) is in `model.safetensors`,
    its val predictions in `predictions/val.parquet`."""
    config = config.for_task(plan.task)
    metrics.parse(config.train.monitor, labels=plan.labels, task=plan.task)
    return _Fit(config, plan, store, context, run).all_epochs()


class _Seen:
    """What this rank has gathered of an epoch that is not judged yet."""

    def __init__(self, positions: npt.NDArray[np.int64] | None = None, logits: torch.Tensor | None = None) -> None:
        self._positions = [] if positions is None else [positions]
        self._logits = [] if logits is None else [logits]
        self.batches = 0
        """Of all ranks together, since the epoch's beginning."""

    def add(self, positions_N: npt.NDArray[np.int64], logits_NL: torch.Tensor) -> None:
        self._positions.append(positions_N)
        self._logits.append(logits_NL)
        self.batches += 1

    def of_all_ranks(self, device: torch.device) -> tuple[npt.NDArray[np.int64], torch.Tensor]:
        """Places in the epoch's order [M] and logits [M, L] of every rank, on the CPU."""
        at = torch.from_numpy(np.concatenate(self._positions)).to(device)
        return distributed.gather_rows(at).cpu().numpy(), distributed.gather_rows(torch.cat(self._logits)).cpu()


class _Fit:
    """One training: what stays the same from step to step, and what is counted."""

    def __init__(self, config: cfg.Config, plan: Plan, store: kept.Data, context: Context, run: Run) -> None:
        self.config, self.plan, self.store, self.context, self.run = config, plan, store, context, run
        self.train = config.train
        self.device, self.first = context.device, context.rank == 0
        self.precision = precision.pick(self.train.precision, self.device)
        if self.device.type == "cuda":  # shapes stay the same, so that trying cuDNN's kernels out pays
            torch.backends.cudnn.benchmark = True
        torch.manual_seed(config.seed)
        self.loss = losses.build(
            config.loss,
            task=plan.task,
            weight_L=plan.pos_weight,
            whole=self.train.micro_batch is None,
            mixed=config.augment.mixup > 0.0,
        )
        # A file of weights that one node lacks is known to all.
        self.model = distributed.all_or_none(lambda: kept.build(config, plan, store))
        if self.train.sync_batch_norm:
            norms.over_ranks(self.model, self.device, self.train, rows=int(plan.drawn.sum()), world=context.world)
        self.model.to(self.device, memory_format=self.precision.layout)
        self.optimizer = optim.build(self.model, config.optim, self.model.head_parameters())
        self.scaler = self.precision.scaler(self.device)
        self.ema = optim.Ema(self.model, config.optim.ema) if config.optim.ema else None
        # What is judged and kept: the moving average of the weights where there is one.
        self.judged = self.model if self.ema is None else self.ema.model
        self.rows_at_once = self._rows_at_once()
        self.net = self._together()
        self.steps_per_epoch = -(-int(plan.drawn.sum()) // self.train.batch_size)
        self.folder = run.path / "checkpoints"
        self.done_epochs, self.step = -1, 0
        self.seen = _Seen()
        self.trained_at: Path | None = None
        """The checkpoint of the epoch after `done_epochs`, where it is trained and only its judging is left."""
        self.shortened = False
        """Whether the time was over within the last epoch, which ended there."""
        self.best: dict[str, Any] | None = None
        self.history = History()
        self.seconds, self.began = 0.0, time.perf_counter()
        self.ended: str | None = None

    def all_epochs(self) -> dict[str, float]:
        between = self._restore()
        train = self.train
        left = None if train.max_time is None else max(0.0, train.max_time * 60 - self.seconds)
        self.watch = Watch(self.context, minutes=train.checkpoint_minutes, left_s=left)
        if between:  # the kill may have come before this was asked
            self._end_early(self.done_epochs, Answer(stop=False, over=left == 0.0, save=False, bad_step=None))
        first = self.done_epochs + 1
        tracker = trackers.open(self.run, self.config, say=self.context.say, epoch=first) if self.first else None
        status: trackers.Status = "failed"
        try:
            latest = self._epochs(tracker)
            distributed.first_alone(lambda: self._finish("stopped" if self.ended == "stop" else "finished"))
            status = "stopped" if self.ended == "stop" else "finished"
        except (KeyboardInterrupt, SystemExit):
            status = "stopped"
            raise
        finally:
            if tracker is not None:
                tracker.close(status)
        return latest

    def _epochs(self, tracker: trackers.Trackers | None) -> dict[str, float]:
        """Every epoch that is left; the last one's metrics by name."""
        latest = distributed.answer_of_first(lambda: judging.by_name(self.history.of(self.done_epochs)))
        while self.ended is None and self.done_epochs < self.train.epochs:
            self.began = time.perf_counter()
            epoch = self.done_epochs + 1
            found = self._epoch(epoch)
            if found is not None and tracker is not None:
                tracker.log(epoch, found)
            self.seconds += time.perf_counter() - self.began
            if found is None:
                break
            latest = found
            self.context.report(
                {"epoch": epoch, **latest}, checkpoints.pointed(self.folder, "last") if self.first else None
            )
            self._end_early(epoch, self.watch.look_up())
        return latest

    def _epoch(self, epoch: int) -> dict[str, float] | None:
        """One epoch trained, judged and kept; its metrics by name, or None where it was stopped within."""
        speed, writing = 0.0, None
        if epoch and self.trained_at is None:
            speed = self._train_epoch(epoch)
            if self.ended is not None:
                return None
            for model in self._models():
                distributed.average_running_statistics(model)
        parts = {"train": self._as_trained(epoch)} if epoch else {}
        if self.first and self.trained_at is None:
            # Written while val is judged, and counted from then on: a kill meanwhile costs the judging alone.
            within = {"logits": parts["train"].logits} if epoch else None
            writing = self._writing(self._state(epoch), within)

        def place() -> Path:
            return self.trained_at if writing is None else writing.end()  # type: ignore[return-value]

        if len(self.plan.rows["val"]):
            rows = self.plan.rows["val"]
            logits = self.predict(rows)
            if logits is None:
                self.ended = "stop"
                distributed.first_alone(lambda: self._stopped_judging(epoch, place()))
                return None
            parts["val"] = Judged(rows, logits, self.plan.truth["val"])
        values = self._judge(parts)
        distributed.first_alone(lambda: self._end_epoch(epoch, values, parts, speed, place()))
        self.done_epochs, self.seen, self.trained_at = epoch, _Seen(), None
        return judging.by_name(values)

    def _stopped_judging(self, epoch: int, place: Path) -> None:
        self.context.say(f"stopped while judging val of epoch {epoch}, which is trained ({place.name})")

    def _end_epoch(
        self,
        epoch: int,
        values: dict[str, list[Value]],
        parts: dict[str, Judged],
        speed: float,
        place: Path,
    ) -> None:
        self.history.add(epoch, self.step, values, self.run)
        self._save(epoch, values, parts, place)
        for line in judging.epoch_lines(self.config, self.plan, epoch, values, speed, time.perf_counter() - self.began):
            self.context.say(line)

    def _end_early(self, epoch: int, answer: Answer) -> None:
        """Whether the training ends after this epoch, and why. `best` is rank 0's to know."""
        patience = self.train.patience
        best = distributed.from_first(self.best) if patience is not None else None
        if self.shortened:  # said when it was
            self.ended = "max_time"
        if epoch == self.train.epochs or self.shortened:
            return
        if answer.stop or answer.over:
            self.ended = "stop" if answer.stop else "max_time"
        elif patience is not None and best is not None and best["value"] is not None:
            self.ended = "patience" if epoch - best["epoch"] >= patience else None
        if self.ended and self.first:
            why = {
                "stop": "asked to stop",
                "max_time": f"train.max_time: {self.train.max_time} minutes are over",
                "patience": f"train.patience: no better {self.train.monitor} for {patience} epochs",
            }
            self.context.say(f"ending after epoch {epoch}: {why[self.ended]}")

    def _together(self) -> nn.Module:
        """The model, or what averages its gradients over the ranks: made anew whenever other weights get gradients."""
        net: nn.Module = self.model
        if self.context.world > 1:
            self.net = self.model
            gc.collect()  # one made before must be gone: its hooks would wait for gradients that do not come
            ids = [self.device.index] if self.device.type == "cuda" else None
            # Each rank keeps its own running statistics while training; they are averaged before judging. Gradients are
            # views of what is sent, which saves a copy of them all, in memory and in each step.
            net = DistributedDataParallel(
                self.model, device_ids=ids, broadcast_buffers=False, gradient_as_bucket_view=True
            )
        return torch.compile(net) if self.train.compile else net  # type: ignore[return-value]

    def _rows_at_once(self) -> int:
        """Rows of this rank's share that run forward and backward together, the same on every rank."""
        share = -(-self.train.batch_size // self.context.world)
        asked = self.train.micro_batch
        if asked != "auto":
            return asked or share
        buffers = {name: value.clone() for name, value in self.model.named_buffers()}

        def step(rows: int) -> None:
            moments = [torch.empty_like(p) for p in self.model.parameters() for _ in range(2)]  # noqa: F841 - room for them
            with self.precision.autocast(self.device):
                logits = models.every_head(self.model(torch.zeros((rows, *self.store.size), device=self.device)))
            torch.stack([one.float().sum() for one in logits]).sum().backward()

        self.model.train()
        rows = distributed.all_or_none(lambda: memory.rows_that_fit(step, share))
        self.model.zero_grad(set_to_none=True)
        for name, value in self.model.named_buffers():  # running statistics of pictures that were none
            value.copy_(buffers[name])
        rows = -int(distributed.most_of_ranks(torch.tensor(-rows, device=self.device)))
        if self.first and rows < share:
            self.context.say(
                f"micro-batches of {rows} rows: a worker's share of {share} does not fit the memory at once"
            )
        return rows

    # -- one epoch ----------------------------------------------------------------------------------------------

    def _train_epoch(self, epoch: int) -> float:
        """One pass, up to where it is stopped (`ended`) or its time is over (`shortened`); rank 0's images/s."""
        plan, train, context = self.plan, self.train, self.context
        rows, truth = plan.rows["train"], plan.truth["train"]
        order = batches.epoch_order(plan.drawn, seed=self.config.seed, epoch=epoch)
        first = self.seen.batches
        share_before = first / self.steps_per_epoch
        log = self._row_log()
        drops = self._drops()
        if self.model.freeze(epoch <= self.config.model.freeze_epochs):
            self.net = self._together()
        began = said = time.perf_counter()
        self.watch.anew()
        self.net.train()
        for batch in batches.train_batches(
            self.store,
            rows,
            truth,
            order,
            batch_size=train.batch_size,
            rank=context.rank,
            world=context.world,
            first=first,
            pair=self._pair(epoch),
            hold=memory.holder(self.device),
        ):
            if log is not None:
                log.writerow([epoch, batch.step, context.rank, " ".join(map(str, batch.rows.tolist()))])
            self.seen.add(batch.positions, self._step(batch, epoch, drops))
            last = batch.step + 1 == self.steps_per_epoch
            if self.watch.due() or last:
                answer = self.watch.look_up()
                if answer.bad_step is not None:
                    self._diverged(epoch, answer.bad_step, rows[order], "the loss of step {} is not a number")
                if last or answer.stop or answer.over or answer.save:  # a checkpoint is next
                    self._check_finite(epoch, rows[order])
                self.shortened = answer.over and not answer.stop and not last
                if self.shortened:
                    self._say_shortened(epoch)
                    break
                if not last and (answer.stop or answer.save):
                    self._save_within(epoch)
                if not last and answer.stop:
                    self.ended = "stop"
                    return 0.0
            now = time.perf_counter()
            if self.first and now - said > SAY_EVERY_S:
                said, share = now, (batch.step + 1) / self.steps_per_epoch
                done = share - share_before
                left = (now - began) * (1 - share) / done
                rate = done * len(order) / (now - began)
                context.say(f"epoch {epoch}/{train.epochs}  {share:4.0%}  {rate:,.0f} images/s  {left:,.0f} s left")
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        done = min(self.seen.batches * train.batch_size, len(order)) - first * train.batch_size
        return done / max(time.perf_counter() - began, 1e-9)

    def _say_shortened(self, epoch: int) -> None:
        if self.first:
            self.context.say(
                f"train.max_time: {self.train.max_time:g} minutes are over after batch {self.seen.batches} of "
                f"{self.steps_per_epoch} in epoch {epoch}, which ends here"
            )

    def _as_trained(self, epoch: int) -> Judged:
        """The outputs of the epoch's own forward passes (as trained, with augmentation) on all ranks."""
        order = batches.epoch_order(self.plan.drawn, seed=self.config.seed, epoch=epoch)
        at, logits = self.seen.of_all_ranks(self.device)
        in_order = np.argsort(at)
        whole = len(at) if self.shortened else len(order)
        assert np.array_equal(at[in_order], np.arange(whole)), "an epoch must see every drawn row exactly once"
        here = order[:whole]
        rows, truth = self.plan.rows["train"][here], self.plan.truth["train"][here]
        return Judged(rows, logits[torch.from_numpy(in_order)], truth)

    def _check_finite(self, epoch: int, row_N: npt.NDArray[np.int64]) -> None:
        """A finite loss may have made a step to weights that are not: no such checkpoint replaces a good one."""
        moments = [v for slots in self.optimizer.state.values() for v in slots.values() if isinstance(v, torch.Tensor)]
        held = [*self.model.parameters(), distributed.running_statistics(self.model), *moments]
        bad = ~torch.stack([tensor.detach().isfinite().all().to(self.device) for tensor in held]).all()
        if distributed.most_of_ranks(bad.float()).item():
            self._diverged(epoch, self.step, row_N, "the weights after step {} are not all numbers")

    def _diverged(self, epoch: int, step: int, row_N: npt.NDArray[np.int64], what: str) -> NoReturn:
        """Every rank ends together and says which batch it was; the checkpoints before it stay."""
        size = self.train.batch_size
        batch = self.seen.batches - 1 - (self.step - step)
        here = row_N[batch * size : (batch + 1) * size].tolist()
        if self.first:
            self.run.update(diverged={"epoch": epoch, "step": step, "rows": here})
        good = checkpoints.pointed(self.folder, "last")
        raise UserError(
            f"{what.format(f'{step} (epoch {epoch})')}: the training has diverged: lower optim.lr, or set "
            f"optim.clip_norm; its batch is rows {', '.join(map(str, here[:8]))}{', ...' if len(here) > 8 else ''} of the store "
            f"(all in run.json); {f'the last good checkpoint is {good.name}' if good else 'there is no checkpoint yet'}"
        )

    def _step(self, batch: batches.Batch, epoch: int, drops: int) -> torch.Tensor:
        """One optimiser step over a global batch; this rank's logits [N, L] in fp32."""
        config, world = self.config, self.context.world
        torch.manual_seed(_mix(config.seed, self.step, self.context.rank))
        rate = optim.rate(
            config.optim, self.step, steps_per_epoch=self.steps_per_epoch, epochs=config.train.epochs, drops=drops
        )
        optim.set_rate(self.optimizer, rate)
        self.optimizer.zero_grad(set_to_none=True)
        # Every rank knows the known cells of the whole batch; DDP averages over ranks, so each scales by the world.
        cells = self.loss.cells(batch.global_truth) if config.loss.reduction == "mean" else 1
        scale = world / max(1, cells)
        with _compiling(config.train.compile), memory.enough():
            outputs, loss = self._forward_backward(batch, epoch, scale)
        if config.optim.clip_norm is not None:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), config.optim.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.step += 1
        self.watch.note(self.step, loss)
        if self.ema is not None:
            self.ema.update(self.model, self.step)
        return outputs

    def _forward_backward(self, batch: batches.Batch, epoch: int, scale: float) -> tuple[torch.Tensor, torch.Tensor]:
        """Gradients of this rank's share, in pieces of the rows that run at once; its logits [N, L] in fp32, and its loss."""
        count = len(batch.rows)
        images = torch.from_numpy(batch.images).to(self.device, non_blocking=True)
        truth = torch.from_numpy(batch.truth).to(self.device, non_blocking=True)
        # Whole: of a part of a pinned page torch does not know when its copy is done and the page may be used again.
        others = (
            None if batch.mixed is None else torch.from_numpy(batch.mixed.images).to(self.device, non_blocking=True)
        )
        size = self.rows_at_once
        outputs = []
        summed = torch.zeros((), device=self.device)
        # A rank that the last short batch leaves without rows still runs forward and backward: the model gives empty
        # logits that hang on every weight, and the other ranks' all-reduce is answered with zeros.
        for start in range(0, max(1, count), size):
            piece = slice(start, start + size)
            last = start + size >= count
            pixels = self._changed(images[piece], None if others is None else others[piece], batch, piece, epoch)
            quiet = nullcontext() if last or self.context.world == 1 else self.net.no_sync()  # type: ignore[operator]
            with quiet:
                with self.precision.autocast(self.device):
                    logits, *auxiliary = models.every_head(self.net(pixels))
                total = self.loss.total(logits.float(), truth[piece])
                for extra in auxiliary:
                    total = total + self.model.auxiliary_weight * self.loss.total(extra.float(), truth[piece])
                self.scaler.scale(total * scale).backward()
            summed += total.detach()
            outputs.append(logits.detach().float())
        return torch.cat(outputs), summed

    def _changed(
        self, images: torch.Tensor, others: torch.Tensor | None, batch: batches.Batch, piece: slice, epoch: int
    ) -> torch.Tensor:
        """A piece of the batch, augmented and, with mixup, mixed with its others, which are augmented as their own places say."""
        change = partial(augment, config=self.config.augment, seed=self.config.seed, epoch=epoch)
        pixels = change(images, positions=batch.positions[piece])
        if others is None or batch.mixed is None:
            return pixels
        others = change(others, positions=batch.mixed.positions[piece])
        return mixup.blend(pixels, others, batch.mixed.share[piece])

    def _pair(self, epoch: int) -> Callable[[npt.NDArray[np.int64]], mixup.Pairs] | None:
        """Who is mixed with whom in a global batch of the epoch, by its places; None without mixup."""
        alpha, seed = self.config.augment.mixup, self.config.seed
        return (lambda places: mixup.pairs(alpha, seed=seed, epoch=epoch, positions=places)) if alpha else None

    # -- judging ------------------------------------------------------------------------------------------------

    def predict(self, rows: npt.NDArray[np.int64]) -> torch.Tensor | None:
        """Logits [M, L] of store rows [M], in their order, on every rank: each rank predicts a contiguous share once. None where
        a stop was asked for meanwhile."""
        self.watch.anew()
        world = self.context.world
        mine = rows[batches.rank_slice(len(rows), self.context.rank, world)]
        size = self.rows_at_once if self.train.micro_batch else self.train.batch_size
        logits = forward(
            self.judged, self.store, mine, self.precision, self.device, batch_size=size, stop=self._stop_asked
        )
        # A rank with a row less may have a batch less, and yet looks up as often as the others.
        largest = -(-len(rows) // world)
        fewer = -(-len(mine) // size) < -(-largest // size)
        if logits is None or (fewer and self._stop_asked()):
            return None
        return distributed.gather_rows(logits).cpu()

    def _stop_asked(self) -> bool:
        """Asked after every batch that is judged; all ranks come to one answer."""
        self.watch.tick()
        return self.watch.due() and self.watch.look_up().stop

    def _drops(self) -> int:
        """How often a plateau of the monitored metric has lowered the rate so far, on every rank."""
        if self.config.optim.schedule != "plateau":
            return 0
        values = self.history.course(self.train.monitor, until=self.done_epochs)
        drops = optim.plateau(values, mode=self.train.mode, wait=self.config.optim.drop_epochs)
        return int(distributed.from_first(drops))  # rank 0 alone keeps the history

    def _judge(self, parts: dict[str, Judged]) -> dict[str, list[Value]]:
        """Every part at the same thresholds; a rule chooses them on this epoch's val, else on train."""
        if not parts:
            return {}
        by = parts.get("val") or parts["train"]
        limits_L = judging.limits(self.config.report.thresholds, by.logits, by.truth, self.plan)
        return {part: judging.judge(j.logits, j.truth, self.loss, self.plan, limits_L) for part, j in parts.items()}

    # -- writing ------------------------------------------------------------------------------------------------

    def _writing(self, state: dict[str, Any], within: dict[str, torch.Tensor] | None) -> checkpoints.Writing:
        return checkpoints.Writing(
            self.folder,
            self.step,
            model=self._tensors(),
            optimizer=self.optimizer.state_dict(),
            state=state,
            within=within,
        )

    def _save(self, epoch: int, values: dict[str, list[Value]], parts: dict[str, Judged], place: Path) -> None:
        """Let the epoch's checkpoint count as judged; where it is the one to keep, with its val predictions, written before."""
        value = metrics.find(values, self.train.monitor)
        sign = 1.0 if self.train.mode == "max" else -1.0
        # The untrained model is judged, and kept only until there is a trained one, however lucky its draw.
        known = self.best is not None and self.best["value"] is not None and self.best["epoch"] > 0
        better = value is not None and (not known or sign * value > sign * self.best["value"])  # type: ignore[index]
        # Where the metric is undefined (no val, no positives) the newest counts as best until one is defined.
        if better or (value is None and not known):
            self.best = {"epoch": epoch, "step": self.step, "metric": self.train.monitor, "value": value}
        is_best = self.best is not None and self.best["epoch"] == epoch
        for part, judged in parts.items():
            keep = part == "val" and (is_best or self.train.select == "last")
            if keep or self.config.report.keep_predictions:
                table = self._predictions(judged)
                if keep:
                    self.run.write_predictions("val", table)
                if self.config.report.keep_predictions:
                    self.run.write_predictions(f"epochs/{epoch:04d}-{part}", table)
        seconds = self.seconds + time.perf_counter() - self.began
        checkpoints.amend(place, {"judged": True, "best": self.best, "seconds": seconds})
        self._point(place)
        checkpoints.prune(self.folder)

    def _point(self, judged: Path | None) -> None:
        """Let the pointers say what the state says: from it they can be set again after a kill."""
        if self.best is not None:
            checkpoints.point(self.folder, "best", checkpoints.at(self.folder, self.best["step"]))
        if judged is not None and self.train.select == "last":
            checkpoints.point(self.folder, "judged", judged)

    def _predictions(self, judged: Judged) -> Any:
        prob = losses.probabilities(judged.logits, task=self.plan.task).numpy()
        return predictions_table(self.store.index, judged.rows, self.plan.labels, judged.truth, prob)

    def _state(self, epoch: int, *, batches_done: int = 0) -> dict[str, Any]:
        return {
            "epoch": epoch,
            "batches": batches_done,  # of an epoch that is not trained to its end
            "judged": False,
            "shortened": self.shortened,
            "step": self.step,
            "best": self.best,
            "seconds": self.seconds + time.perf_counter() - self.began,
            "scaler": self.scaler.state_dict(),
        }

    def _save_within(self, epoch: int) -> None:
        """A checkpoint in the middle of an epoch: also what the epoch has gathered, and every rank's running statistics."""
        at, logits = self.seen.of_all_ranks(self.device)
        running = torch.cat([distributed.running_statistics(m) for m in self._models()])[None]
        if running.numel():
            running = distributed.gather_rows(running)
        within = {"positions": torch.from_numpy(at), "logits": logits, "running": running}

        def save() -> None:
            self._writing(self._state(epoch, batches_done=self.seen.batches), within).end()
            checkpoints.prune(self.folder)

        distributed.first_alone(save)

    def _models(self) -> list[nn.Module]:
        """The model that is trained and, where one is kept, its moving average."""
        return [self.model] if self.ema is None else [self.model, self.ema.model]

    def _tensors(self) -> dict[str, torch.Tensor]:
        """The model's weights and, where one is kept, their moving average under names of its own."""
        return kept.joined(self.model.state_dict(), {} if self.ema is None else self.ema.state_dict())

    def _restore(self) -> bool:
        """Take up the checkpoint to go on from; whether it is one of this run's own after a whole epoch."""
        given = self.context.restore()
        place = given or self._latest()
        if place is None:
            return False
        held = checkpoints.load(place)
        state = held.state
        weights, average = kept.parted(held.model)
        self.model.load_state_dict(weights)
        if self.ema is not None:
            self.ema.load_state_dict(average)
        optim.load_state(self.optimizer, held.optimizer)
        self.scaler.load_state_dict(state["scaler"])
        self.step, self.best, self.seconds = state["step"], state["best"], state["seconds"]
        within, due = bool(state["batches"]), False
        if given is not None:  # taken over from another run: its best is not ours
            own = checkpoints.pointed(self.folder, "last")
            self.best = None if own is None else checkpoints.load(own).state["best"]
            if (
                self.best is not None and self.best["epoch"] > state["epoch"]
            ):  # its epoch is trained once more, otherwise
                self.best = None
        else:
            self.shortened = state["shortened"]
            lost = distributed.answer_of_first(lambda: self._best_is_lost(place))
            if lost:
                self.best = None
            # Where the best is lost, this epoch is judged again, as the first of those that are left to choose from.
            due = not within and (lost or not state["judged"])
            distributed.first_alone(lambda: self._point(None if within or due else place))
        self.done_epochs = state["epoch"] - (within or due)
        self.trained_at = place if due else None
        if within or due:
            self._restore_seen(held)
        if self.first:
            self.history = History.until(self.done_epochs, self.run)
            where = f"batch {state['batches']} of {self.steps_per_epoch} in " if within else "training " if due else ""
            self.context.say(f"going on after {where}epoch {state['epoch']} of {self.train.epochs} ({place.name})")
        return given is None and not within and not due

    def _latest(self) -> Path | None:
        """Rank 0's answer, so that all go on from the same checkpoint, whatever is written meanwhile."""
        found = distributed.answer_of_first(lambda: checkpoints.latest(self.folder))
        if found is None:
            return None
        place, warning = found
        if warning and self.first:
            self.context.say(warning)
        return place

    def _best_is_lost(self, sound: Path) -> bool:
        """Whether the checkpoint of the best epoch was damaged, which is said; rank 0's to ask. `sound` is known to be none such."""
        best = sound if self.best is None else checkpoints.at(self.folder, self.best["step"])
        if self.best is None or best == sound or checkpoints.is_sound(best):
            return False
        self.context.say(
            f"warning: the checkpoint of the best epoch ({self.best['epoch']}) is damaged or gone: the best is chosen anew, "
            "from here on"
        )
        return True

    def _restore_seen(self, held: checkpoints.Checkpoint) -> None:
        """Rank 0 takes what the epoch had gathered; as many ranks as before take their own statistics, others the mean."""
        within = held.within
        if held.state["epoch"]:
            logits = within["logits"].to(self.device)
            at = within["positions"].numpy() if "positions" in within else np.arange(len(logits))
            gathered = slice(None) if self.first else slice(0)
            self.seen = _Seen(at[gathered], logits[gathered])
        self.seen.batches = held.state["batches"]
        running = within.get("running")
        if running is None:  # averaged already
            return
        same = len(running) == self.context.world
        mine = (running[self.context.rank] if same else running.mean(dim=0)).to(self.device)
        for model in self._models():
            size = len(distributed.running_statistics(model))
            distributed.set_running_statistics(model, mine[:size])
            mine = mine[size:]

    def _finish(self, status: str) -> None:
        which = kept.keep(self.run, self.model, self.plan, select=self.train.select, precision=self.precision.name)
        if status == "finished" and which is None:
            raise UserError(
                f"the checkpoint of the {self.train.select} epoch in {self.folder} is damaged or gone; the same command again "
                "judges and keeps the newest that is sound"
            )
        if status == "finished" and which == {"epoch": 0, "step": 0} and self.train.epochs:
            self.context.say(
                "warning: the training ended before its first step: the model that is kept is untrained; give it more time "
                "(train.max_time)"
            )
        self.run.update(
            status=status,
            ended=self.ended,
            best=self.best,
            kept=which,
            epochs=self.done_epochs,
            seconds=round(self.seconds, 2),
            parameters=models.parameter_count(self.model),
            precision=self.precision.name,
            workers=self.context.world,
            device=self.device.type,
        )

    def _row_log(self) -> Any:
        if not self.train.log_rows:
            return None
        folder = self.run.path / "rows"
        folder.mkdir(exist_ok=True)
        handle = (folder / f"rank-{self.context.rank}.csv").open("a", newline="", buffering=1)
        return csv.writer(handle)


def forward(
    model: nn.Module,
    store: kept.Data,
    rows: npt.NDArray[np.int64],
    how: precision.Precision,
    device: torch.device,
    *,
    batch_size: int,
    stop: Callable[[], bool],
) -> torch.Tensor | None:
    """Logits [N, L] in fp32 on `device` of store rows [N], in their order, in eval mode without gradients; None where `stop()`,
    asked after every batch, is true."""
    model.eval()
    outputs = []
    with torch.inference_mode():
        for _, pixels in batches.judging_batches(store, rows, batch_size=batch_size, hold=memory.holder(device)):
            with how.autocast(device):
                outputs.append(model(torch.from_numpy(pixels).to(device, non_blocking=True)).float())
            if stop():
                return None
        if not outputs:
            outputs.append(model(torch.zeros((0, *store.size), dtype=torch.uint8, device=device)).float())
    return torch.cat(outputs)


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

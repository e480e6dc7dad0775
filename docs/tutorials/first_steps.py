# %% [markdown]
# # Your first model
#
# From images to a report, a sweep, a comparison, an ensemble and a prediction, on synthetic chest X-rays. Open this file as a
# notebook (VS Code and PyCharm read it as it is; `jupytext --to ipynb first_steps.py` converts it), or run it in an empty folder:
# `python first_steps.py`. It takes about a minute on two cores and writes to the current folder.
#
# So few and so small images teach a model almost nothing. The numbers below show what you get, not how good it is; use
# `patients=500, size=96` and more epochs to see models learn.

# %%
import numpy as np
import torch
from torch.utils.data import DataLoader

import cxr_ray

# %% [markdown]
# ## Data
#
# `make_phantom` writes a small data set with the label problems of real ones: uncertain findings, findings that the report does not
# mention, several images per patient. With your own images, start at `read_dataset`; `list_datasets()` names the known layouts.

# %%
raw = cxr_ray.make_phantom("raw", patients=40, size=32, seed=0)
records = cxr_ray.read_dataset("phantom", raw)
print(f"{len(records.table)} images; known layouts: {', '.join(cxr_ray.list_datasets())}")

# %% [markdown]
# `ingest` decodes and resizes every image once, in parallel, into a store. A store is a sequence of images. Here it warns about the side
# markers that the phantom draws into corners; with real images such letters may name a patient, or reveal the answer.

# %%
store = cxr_ray.ingest(records, raw, "shards", size=32)
print(store)
first = store[0]
print(f"row {first.row}: {first.image.shape} {first.image.dtype}, {first.labels}")
store.show(first.row)

# %% [markdown]
# ## A torch loop of your own
#
# `store.dataset("train")` gives the same rows and targets as `train` below: patients are never in two parts, and NaN is a target that
# is not known. `create_model` resizes and normalises by itself, so uint8 images go in as they are.

# %%
torch.manual_seed(0)
data = store.dataset("train")
model = cxr_ray.create_model("lenet", num_outputs=len(data.labels), image_size=store.size)
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
losses = []
for epoch in range(3):
    total = 0.0
    for images, targets, _ in DataLoader(data, batch_size=16, shuffle=True):
        known = ~targets.isnan()
        loss = torch.nn.functional.binary_cross_entropy_with_logits(model(images)[known], targets[known])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.item() * len(images)
    losses.append(total / len(data))
    print(f"epoch {epoch + 1}: loss {losses[-1]:.3f}")

# %% [markdown]
# ## Train and evaluate
#
# `train` does this with everything around it: checkpoints, metrics by label, positive weights, resuming. Settings may be dotted or
# nested; `load_config` also reads a preset or a YAML file. The warnings compare the parts: 11 images of val cannot be balanced.

# %%
settings = {
    "data.shards": store,
    "model.name": "lenet",
    "train.epochs": 1,
    "train.batch_size": 16,
    "report.bootstrap": 100,
}
config = cxr_ray.load_config(**settings, name="first")
run = cxr_ray.train(config)
print(run)

# %% [markdown]
# An evaluation has a table by label, figures, and an HTML report. In a notebook, leave an object as the last line of a cell to see it.
# Each evaluation of the test part is counted, so use `val` until the model is final.

# %%
evaluation = cxr_ray.evaluate(run, split="val", thresholds="f1")
print(evaluation)
evaluation.table[["recall", "auroc", "precision"]].round(3)

# %%
evaluation.figure("roc-Pleural Effusion")

# %% [markdown]
# ## Search hyperparameters
#
# Every trial is evaluated on the same rows and targets of val. Trial 0000 is the base configuration, which the search must improve
# on. The winner is evaluated once on test.

# %%
sweep = cxr_ray.tune(
    {
        **settings,
        "name": "sweep",
        "tune.trials": 2,
        "tune.scheduler": "none",
        "tune.space": {"optim.lr": {"loguniform": [1e-4, 1e-2]}},
    }
)
print(sweep)
sweep.trials[["trial", "status", "epochs", "optim.lr"]]

# %% [markdown]
# ## Compare
#
# Two runs on the same rows: mean over the labels, second minus first, with 95% intervals of the paired differences. On 11 images they
# are so wide that nothing can be concluded, and those of other metrics, which `comparison` has too, cannot be trusted at all.

# %%
second = cxr_ray.train({**settings, "name": "second", "seed": 1})
comparison = cxr_ray.compare([run, second], split="val")
print(comparison)
means = comparison.differences.query("label == 'mean'").set_index("metric")
means.loc[["recall", "auroc", "ap"], ["value", "low", "high"]].round(3)

# %% [markdown]
# ## Ensemble and prediction
#
# An ensemble is a run whose probabilities are the mean of its members'. A predictor takes arrays, tensors, Pillow images and files.

# %%
both = cxr_ray.make_ensemble("runs/both", [run, second])
predictor = cxr_ray.load_predictor(both)
probabilities = predictor(np.stack([store[0].image, store[1].image]))
from_file = predictor(raw / records.table["image"].iloc[0])
for label, value in zip(predictor.labels, probabilities[0], strict=True):
    print(f"{label}: {value:.3f}")

# %% [markdown]
# In short: all that was made, and a check that the image's file and the image in the store get the same probabilities.

# %%
print(f"images: {len(store)}")
print(f"loss of the first and last epoch: {losses[0]:.4f} {losses[-1]:.4f}")
print(f"winner: {sweep.best}")
print(f"probabilities: {probabilities.shape}, from {probabilities.min():.3f} to {probabilities.max():.3f}")
print(f"largest difference between file and store: {np.abs(from_file[0] - probabilities[0]).max():.6f}")

# %% tags=["remove-cell"]
from pathlib import Path

assert len(store) == len(list(Path("raw/images").iterdir())) >= 40
assert 0 < losses[-1] < losses[0] < 1
assert repr(sweep.best).startswith("Run(best: lenet, finished, on test: recall ")
assert probabilities.shape == (2, 6) and 0 < probabilities.min() < probabilities.max() < 1
assert np.abs(from_file[0] - probabilities[0]).max() < 1e-5
for file in ("first/report-val.html", "sweep/sweep.html", "sweep/best/report.html", "both/run.json"):
    assert (Path("runs") / file).is_file(), file
assert sorted(path.name for path in Path().iterdir()) == ["raw", "runs", "shards"]

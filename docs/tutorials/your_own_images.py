# %% [markdown]
# # Your own images and table
#
# You have a folder of films and a table with findings. This tutorial goes from there to a run: read the table, look before you store,
# ingest, check the labels and the split, train, and read the result. The films are synthetic ones, written as a hospital might export them:
# a CSV with semicolons, words for findings, some blank and one damaged file.

# %%
import shutil
from pathlib import Path

import numpy as np
import pandas as pd

import cxr_ray

# %% [markdown]
# ## An export
#
# First the export itself. In your case it exists; here it is made from phantoms: 120 patients, their films in `export/films`, and
# `export/films.csv`, in which a reader wrote `yes`, `no`, `maybe` or nothing.

# %%
raw = cxr_ray.make_phantom("raw", patients=120, size=64, seed=4)
table = cxr_ray.read_dataset("phantom", raw).table
words = {1.0: "yes", 0.0: "no", -1.0: "maybe"}
export = pd.DataFrame(
    {"Film": table["image"].str.split("/").str[-1], "Case no.": table["patient"], "View": table["view"]}
)
for label in ("Cardiomegaly", "Pleural Effusion"):
    export[label] = table[label].map(words)
shutil.copytree(raw / "images", "export/films")
export.to_csv("export/films.csv", sep=";", index=False)
Path("export/films", export["Film"][3]).write_bytes(b"this is no image")
export.head()

# %% [markdown]
# ## Read the table
#
# The source `table` reads any table: you name its columns and what its words mean. No pixel is read yet. What it cannot make sense of is an
# error with the row, so a typing mistake in a cell does not become a label.

# %%
options = {
    "table": "films.csv",
    "image": "Film",
    "folder": "films",
    "patient": "Case no.",
    "view": "View",
    "labels": ["Cardiomegaly", "Pleural Effusion"],
    "values": {"yes": 1, "no": 0, "maybe": -1},
}
records = cxr_ray.read_dataset("table", "export", **options)
records.table[["image", "patient", "view", "Cardiomegaly", "Pleural Effusion"]].head()

# %% [markdown]
# 1 is positive, 0 negative, -1 uncertain, and NaN a finding that the report does not mention. What that means for training is decided later.
# A wrong word is refused, and the message says how to fix it:

# %%
try:
    cxr_ray.read_dataset("table", "export", **{**options, "values": {"yes": 1, "no": 0}})
except cxr_ray.UserError as error:
    print(error)

# %% [markdown]
# On the command line the same is
#
# ```
# cxr-ray ingest table export shards/films --table films.csv --image Film --folder films --patient "Case no." --view View \
#     --labels Cardiomegaly --labels "Pleural Effusion" --values '{yes: 1, no: 0, maybe: -1}'
# ```
#
# and with `--dry-run` it stores nothing and reports rows, label vectors, missing files and the expected size and time.
#
# ## Ingest
#
# Every film is decoded and resized once. One film is damaged: up to 1% of the images may be unusable, and each is listed with the reason.

# %%
store = cxr_ray.ingest(records, "export", "shards", size=64)
print(store)
pd.read_parquet("shards/rejected.parquet")

# %%
store.show(0)

# %% [markdown]
# ## Labels and parts
#
# `store.dataset` is what a training would use with these settings: which rows are train, val and test, and their targets. Patients are never in two
# parts. With `uncertain: ones` a "maybe" counts as positive in training; in val and test it is left out, whatever training does, so that two
# policies can be compared.

# %%
settings = {"data.shards": store, "data.uncertain": "ones", "data.split.val": 0.2, "data.split.test": 0.25}
for part in ("train", "val", "test"):
    data = store.dataset(part, cxr_ray.load_config(**settings))
    targets = np.array([data[i][1].numpy() for i in range(len(data))])
    print(f"{part}: {len(data)} images; positive {np.nansum(targets, axis=0).astype(int)} of {list(data.labels)}")

# %% [markdown]
# ## Train
#
# A few epochs of a small network on 64 px, so that this page takes seconds. `monitor` chooses the epoch that is kept, on val.

# %%
run = cxr_ray.train(
    {
        **settings,
        "name": "films",
        "model.name": "lenet",
        "optim.lr": 3e-3,
        "train.epochs": 6,
        "train.batch_size": 16,
        "loss.pos_weight_power": 0.5,
        "report.bootstrap": 200,
    }
)
run.figure("epochs-auroc")

# %% [markdown]
# ## Read the result
#
# The test part has selected nothing, so its numbers count. Each has an interval, by patient: with so few patients the intervals are wide, and
# that is what the data can say. The report also shows what a logistic regression on a thumbnail reaches on the same rows: a network that does not
# beat it has learnt little. The threshold of each label is chosen on val for a recall of at least 0.8, with a margin for the size of val: with so few
# positives the margin is large, recall ends above 0.8, and precision pays for it.

# %%
evaluation = cxr_ray.evaluate(run, thresholds={"recall": 0.8})
evaluation.table[["recall", "recall_low", "recall_high", "auroc", "auroc_low", "auroc_high", "precision"]].round(2)

# %%
evaluation.figure("roc-Pleural Effusion")

# %% [markdown]
# `evaluation.errors` lists the worst wrong decisions with their files: look at them before you believe a number.

# %%
evaluation.errors.head(5)

# %% [markdown]
# The complete report is one file, `runs/films/report.html`: threshold explorer, calibration, groups by sex, age and view, and the worst errors as
# images. From here: more pixels and epochs, `--weights imagenet`, [a sweep](what_a_sweep_is_worth.py), and
# [other hospitals' data](../how-to/external-validation.md).

# %% tags=["remove-cell"]
assert len(pd.read_parquet("shards/rejected.parquet")) == 1 and len(store) == len(export) - 1
assert evaluation.table["auroc"].between(0, 1).all()

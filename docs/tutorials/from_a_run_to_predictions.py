# %% [markdown]
# # From a run to predictions
#
# A model is trained and evaluated. Now an archive is waiting: thousands of films, some damaged, some that are no chest X-rays at all. This
# tutorial chooses operating points, predicts a folder into one table, and looks at what was refused and at what is unlike the training images.

# %%
import numpy as np
from PIL import Image

import cxr_ray

# %% [markdown]
# ## A run with operating points
#
# A small one, on synthetic X-rays. Thresholds are chosen on val by the rule that the reading room asked for, here a recall of 0.8, and applied to
# test. They are stored with the run: predictions use them. The rule has a margin for the size of val, so most recalls are above 0.8; a label with two
# or three positives there may miss it all the same, and the report says which.

# %%
raw = cxr_ray.make_phantom("raw", patients=120, size=48, seed=3)
store = cxr_ray.ingest(cxr_ray.read_dataset("phantom", raw), raw, "shards", size=48)
run = cxr_ray.train(
    {
        "name": "first",
        "data.shards": store,
        "model.name": "lenet",
        "optim.lr": 3e-3,
        "train.epochs": 3,
        "train.batch_size": 32,
        "report.bootstrap": 100,
        "report.trackers": [],
    }
)
evaluation = cxr_ray.evaluate(run, thresholds={"recall": 0.8})
evaluation.table[["recall", "precision", "auroc"]].round(3)

# %% [markdown]
# ## An archive
#
# New patients, which the run has never seen, in a folder. Among them a file that is no image, and one that is an image but no X-ray.

# %%
archive = cxr_ray.make_phantom("archive", patients=15, size=48, seed=99) / "images"
(archive / "broken.png").write_bytes(b"no image")
noise = np.random.default_rng(0).integers(0, 256, (48, 48), dtype=np.uint8)
Image.fromarray(noise).save(archive / "noise.png")
print(len(list(archive.iterdir())), "files")

# %% [markdown]
# ## One table
#
# `predict` takes a folder, a table of paths, DICOMs or a store, here or at a URL. One row per input, in order; what cannot be used has a reason
# instead of numbers. Killed in the middle, the same call goes on where it was.

# %%
prediction = cxr_ray.predict(run, archive, "predictions.parquet")
print(prediction)
table = prediction.table
table[[column for column in table.columns if column.startswith(("image", "prob/", "refused"))]].head().round(3)

# %% [markdown]
# `prob/LABEL` is the probability, `decision/LABEL` the decision at the run's operating point. `calibrated/LABEL` is there where the run has a
# calibrator, which needs enough rows of val.

# %%
print("images:", prediction.rows, "positive decisions:", prediction.positives)

# %% [markdown]
# ## What was refused
#
# A refused row is an answer too: somebody must look at that file.

# %%
table[table["refused"].notna()][["image", "refused"]]

# %% [markdown]
# ## What looks unusual
#
# A network gives a probability for anything, also for noise. When a training ends, the gray levels, layout and pooled features of its images are
# summarised, and each prediction gets a score: above 1 an image is unlike the training images in at least one of them. Its probabilities mean
# little then.

# %%
scores = table.dropna(subset=["unusual_score"]).sort_values("unusual_score", ascending=False)
scores[["image", "unusual_score", "unusual"]].head(4).round(2)

# %% [markdown]
# ## The same on the command line
#
# ```
# cxr-ray predict runs/first archive/images predictions.parquet
# cxr-ray predict runs/first dicoms/ predictions.parquet --sr reports/ --by study
# cxr-ray serve runs/first
# ```
#
# The second writes a DICOM structured report for each film, marked as research use, the third answers over HTTP:
# [](../how-to/predict.md), [](../how-to/serve.md). For a few images in Python, `load_predictor` needs no table:

# %%
predictor = cxr_ray.load_predictor(run)
files = sorted(archive.glob("p*.png"))[:2]
for label, probability in zip(predictor.labels, predictor(files)[0], strict=True):
    print(f"{label}: {probability:.3f}")

# %% tags=["remove-cell"]
assert prediction.rows == len(list(archive.iterdir())) and prediction.refused >= 1
assert scores["image"].iloc[0].endswith("noise.png") and scores["unusual"].iloc[0]
assert "broken.png" in " ".join(table[table["refused"].notna()]["image"])
assert table["prob/Edema"].dropna().between(0, 1).all()

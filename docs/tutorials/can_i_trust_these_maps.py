# %% [markdown]
# # Can I trust these maps?
#
# A map over an X-ray looks convincing whether the model is right or wrong. This notebook asks four questions of a map, on synthetic
# chest X-rays: does it add up, does it depend on what the model learned, does it point where the finding is, and does it show a
# shortcut that we planted ourselves. Open this file as a notebook (VS Code and PyCharm read it as it is;
# `jupytext --to ipynb can_i_trust_these_maps.py` converts it), or run it in an empty folder: `python can_i_trust_these_maps.py`. It takes
# less than a minute on two cores and writes to the current folder.

# %%
import numpy as np
import torch
from torch.utils.data import DataLoader

import cxr_ray

# %% [markdown]
# ## A model to explain
#
# 80 synthetic patients, at 64 px, and two epochs: far too few to learn a finding, as the AUROC says. Its maps look like any others.

# %%
raw = cxr_ray.make_phantom("raw", patients=80, size=64, seed=0)
store = cxr_ray.ingest(cxr_ray.read_dataset("phantom", raw), raw, "shards", size=64)
settings = {
    "data.shards": store,
    "model.name": "lenet",
    "optim.lr": 1e-3,
    "train.epochs": 2,
    "train.batch_size": 16,
}
run = cxr_ray.train({**settings, "name": "phantom", "report.bootstrap": 100})
print(run)

# %% [markdown]
# ## Question 1: does the map add up?
#
# `explain` makes the maps of the first images of the test part. LRP divides a logit among the pixels, so its maps come with a
# certificate: what the pixels got, what biases took and what the stabiliser absorbed must give the logit, layer by layer. A map that does
# not add up is marked and should not be read. The sum alone proves little: it may be right for a map that is wrong.

# %%
label = "Pleural Effusion" if "Pleural Effusion" in store.labels else store.labels[0]
explanation = cxr_ray.explain(run, target=label, limit=6, out="maps")
print(explanation)
certificates = explanation.certificates
certificates.groupby("method")[["logit", "relevance", "bias", "epsilon", "adds_up"]].mean().round(3)

# %% [markdown]
# In a notebook, the explanation as the last line of a cell shows the methods side by side. `figure` gives any of its figures, and
# `maps/explain.html` is a page on which method, label and opacity can be switched.

# %%
explanation.figure("side_by_side")

# %% [markdown]
# ## Question 2: does the map depend on what the model learned?
#
# A map that looks the same for a network that has learned nothing shows the picture's edges, not the model's reasons. So we explain the
# same images by an untrained model and correlate the maps. The closer to 1, the less the map says about this model.

# %%
torch.manual_seed(0)
untrained = cxr_ray.create_model("lenet", num_outputs=len(store.labels), image_size=64)
images = store.images(explanation.rows)
blank = cxr_ray.explain(untrained, images, target=f"output {run.info['labels'].index(label)}")
similarity = {
    method: np.mean(
        [
            np.corrcoef(np.abs(a).ravel(), np.abs(b).ravel())[0, 1]
            for a, b in zip(explanation.maps[method], blank.maps[method], strict=True)
        ]
    )
    for method in explanation.maps
}
for method, value in similarity.items():
    print(f"{method}: correlation with an untrained model's map {value:.2f}")

# %% [markdown]
# ## Question 3: does the map point at the finding?
#
# The phantom knows where it drew each finding: the store has boxes. With `boxes` the methods are scored against them, next to the
# location prior: where findings of this label usually are, without any model. A map that does not beat the prior points at nothing that
# this model has seen. `hit` is the share of maps whose strongest point lies in a box; [](../reference/metrics.md) has the other scores. The rules
# of the verdict are stated on the page.

# %%
scored = cxr_ray.explain(
    run, target=label, limit=6, methods=["saliency", "lrp_epsilon", "gradcam"], boxes="stored", out="scored"
)
print(scored.verdict)
scored.scores

# %% [markdown]
# ## Question 4: would I notice a shortcut?
#
# We plant one: half of the images, at random, get a white mark in a corner, and the model learns to tell them apart. Nothing else
# distinguishes them, so whatever it learns is the mark.

# %%
rng = np.random.default_rng(0)
pictures = store.images(store.index["row"])
marked = rng.random(len(pictures)) < 0.5
pictures[marked, 3:9, 3:9] = 255
torch.manual_seed(0)
model = cxr_ray.create_model("lenet", num_outputs=1, image_size=64)
optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
data = torch.utils.data.TensorDataset(torch.from_numpy(pictures), torch.from_numpy(marked).float())
epoch, total = 0, float("inf")
while total > 0.03 * len(data) and epoch < 80:  # until it has learned the mark
    epoch, total = epoch + 1, 0.0
    for batch, target in DataLoader(data, batch_size=16, shuffle=True):
        loss = torch.nn.functional.binary_cross_entropy_with_logits(model(batch)[:, 0], target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.item() * len(batch)
print(f"loss {total / len(data):.3f} after {epoch} epochs")

# %% [markdown]
# The share of relevance in that corner, in marked and in other images, and for the first model, which never saw a mark. A gradient asks what would
# change the answer, so the corner stands out in images without the mark too: a mark there would change it. For a trained run,
# `cxr-ray explain runs/phantom --audit` does this for every place of the image, with intervals by patient, against other images and
# against random weights.


# %%
def corner_share(maps: np.ndarray) -> float:
    """Mean share of the absolute relevance in the top left corner."""
    size = np.abs(maps)
    return float((size[:, :12, :12].sum(axis=(1, 2)) / size.sum(axis=(1, 2))).mean())


some = {"marked": pictures[marked][:40], "others": pictures[~marked][:40]}
shortcut = {
    name: corner_share(cxr_ray.explain(model, x, methods="saliency").maps["saliency"]) for name, x in some.items()
}
honest = corner_share(cxr_ray.explain(run, some["marked"], methods="saliency", target=label).maps["saliency"])
print(f"the model with the shortcut: {shortcut['marked']:.0%} in marked images, {shortcut['others']:.0%} in others")
print(f"the model without: {honest:.0%}; the corner is {(12 / 64) ** 2:.0%} of the image")

# %% [markdown]
# In short: a map is worth reading if it adds up, changes with the weights, beats the location prior, and its relevance lies where a
# radiologist would look. What it then shows is where this model looks, not where a disease is.

# %%
print(f"certificates that hold: {int(certificates['adds_up'].sum())} of {len(certificates)}")
print(f"largest similarity to an untrained model: {max(similarity.values()):.3f}")
print(f"corner shares: {shortcut['marked']:.4f} {shortcut['others']:.4f} {honest:.4f}")

# %% tags=["remove-cell"]
from pathlib import Path

assert len(certificates) == 12 and certificates["adds_up"].all()
assert -1 < max(similarity.values()) < 1
assert shortcut["marked"] > 3 * honest and min(shortcut.values()) > 3 * (12 / 64) ** 2
assert scored.verdict.startswith(("Too few", "Do not trust", "Trust", "The "))
for file in ("maps/maps.npz", "maps/explain.html", "scored/scores.csv"):
    assert Path(file).is_file(), file

# %% [markdown]
# # A sweep, and what it is worth
#
# A sweep tries many settings and reports the best. The best of many is partly lucky, and the more are tried, the luckier it is. This tutorial
# runs two sweeps on the same synthetic X-rays: one over settings that matter, and one over nothing but the seed. Both have a winner. Only one of
# them has found anything.

# %%
import numpy as np

import cxr_ray

raw = cxr_ray.make_phantom("raw", patients=150, size=48, seed=2)
store = cxr_ray.ingest(cxr_ray.read_dataset("phantom", raw), raw, "shards", size=48)
settings = {
    "data.shards": store,
    "model.name": "lenet",
    "optim.lr": 3e-4,
    "train.epochs": 3,
    "train.batch_size": 32,
    "report.bootstrap": 300,
    "report.trackers": [],
}

# %% [markdown]
# ## A sweep over settings
#
# A space is a mapping from settings to values: any setting that changes the training. The name of a setting, and the limits of its values, are
# checked before the first trial. All trials are evaluated on the same rows of val with the same targets, whatever they train on. Trial 0000 is the
# base configuration above: the search must improve on it.

# %%
sweep = cxr_ray.tune(
    {
        **settings,
        "name": "real",
        "tune.trials": 5,
        "tune.scheduler": "none",
        "tune.space": {
            "optim.lr": {"loguniform": [1e-4, 1e-2]},
            "loss.pos_weight_power": {"uniform": [0.0, 1.0]},
        },
    }
)
sweep.trials[["trial", "status", "optim.lr", "loss.pos_weight_power", "auroc/mean", "recall/mean"]].round(4)

# %% [markdown]
# One line a trial: its hyperparameters, and its metrics on val at its selected epoch. `runs/real/sweep.html` has all labels, curves and costs. In
# parallel coordinates each line is a trial, and its colour is the objective:

# %%
sweep.figure("parallel")

# %%
sweep.figure("hyperparameter-optim.lr")

# %% [markdown]
# ## What the win is worth
#
# The page compares the winner with the second-best trial and with the base configuration, on val, on resamples of patients that both share. An
# interval that contains 0 means: as far as these patients can tell, no difference.

# %%
for row in sweep.info["worth"]["against"]:
    if row["metric"] == "auroc":
        print(
            f"auroc of the winner minus that of {row['what']}: {row['value']:+.3f} ({row['low']:+.3f} to {row['high']:+.3f})"
        )

# %% [markdown]
# But the winner was *selected* on val, so a comparison there favours it. The part that selected nothing is test. The winner has been evaluated there
# once; we do the same for the base configuration, and compare the two on the same rows:


# %%
def on_test(sweep: cxr_ray.Sweep) -> tuple[float, float, float]:
    """Winner minus base configuration on test: mean ROC AUC, and the interval of the difference."""
    base, best = sweep.run("0000"), sweep.best
    assert best is not None
    cxr_ray.evaluate(base, split="test")
    found = cxr_ray.compare([base, best], split="test").differences
    row = found.query("metric == 'auroc' and label == 'mean'").iloc[0]
    return row["value"], row["low"], row["high"]


value, low, high = on_test(sweep)
print(f"on test: {value:+.3f} ({low:+.3f} to {high:+.3f})")

# %% [markdown]
# ## A sweep over nothing
#
# Now the only thing that differs is the seed: the order of the images, the augmentation, the initial weights. There is nothing to find, and
# still one of the trials is the best on val.

# %%
luck = cxr_ray.tune(
    {
        **settings,
        "name": "luck",
        "optim.lr": 3e-3,
        "tune.trials": 5,
        "tune.scheduler": "none",
        "tune.search": "list",
        "tune.combinations": [{"seed": seed} for seed in range(1, 6)],
    }
)
luck.trials[["trial", "seed", "auroc/mean"]].round(4)

# %% [markdown]
# On val the best seed is above the mean of all seeds. That advantage is luck, and on test it need not be there. Where it is, it belongs to
# these weights: the interval is about patients, and says nothing of what the same settings give with another seed:

# %%
val = luck.trials.set_index("trial")["auroc/mean"]
gain = val.max() - val.mean()
print(f"on val: the best seed {val.max():.3f}, the mean of {len(val)} seeds {val.mean():.3f}, advantage {gain:+.3f}")
lucky, low, high = on_test(luck)
print(f"on test: the best seed minus the base configuration {lucky:+.3f} ({low:+.3f} to {high:+.3f})")
spread = sweep.trials["auroc/mean"].max() - sweep.trials["auroc/mean"].min()
print(f"the settings of the first sweep differ by {spread:.3f}; seeds alone differ by {val.max() - val.min():.3f}")

# %% [markdown]
# So, before a sweep is believed:
#
# - Is the difference to the base configuration beyond its interval? The page of a sweep says so in words, for val; on test it counts.
# - Is it larger than what seeds alone do? `cxr-ray train --seeds 3` of the base configuration shows that cheaply.
# - How often was test evaluated? Every time is counted, over all trials:

# %%
print("evaluations of test in the two sweeps:", sweep.test_evaluations, "and", luck.test_evaluations)

# %% [markdown]
# With real data use more trials than here, ASHA (`tune.scheduler: asha`), which stops the worse ones early, and val parts with more patients:
# [](../how-to/sweeps.md). [](../concepts/what-a-number-is-worth.md) has the reasons.

# %% tags=["remove-cell"]
assert len(sweep.trials) == 6 and len(luck.trials) == 6 and gain > 0
assert low <= lucky <= high and sweep.test_evaluations >= 2
assert (sweep.path / "sweep.html").is_file() and np.isfinite(spread)

# %% [markdown]
# # One machine to a cluster
#
# A training starts on a laptop and later needs more machines. The commands stay the same: what changes is an address. This tutorial starts the
# smallest possible cluster, one head node on this machine, and uses it as one uses a large one: from Python, and by submitting jobs.
#
# On a real cluster the head runs elsewhere, and somebody has started it ([](../how-to/cluster.md)): then begin at *Train on it*.

# %%
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

# %% [markdown]
# ## A token first
#
# Anyone who reaches the port of an open Ray cluster can run code on its machines. So Ray has a token: the head gets it when it starts, and every
# client must show it. It is a file that only you can read, and its path is in the environment before Ray is imported.

# %%
token = Path("auth_token").absolute()
token.touch(mode=0o600)
token.write_text(secrets.token_hex(32))
os.environ["RAY_AUTH_MODE"] = "token"
os.environ["RAY_AUTH_TOKEN_PATH"] = str(token)

# %% [markdown]
# ## A head node
#
# `ray start --head` in a terminal starts a node that stays; with `--block` it ends with its process. Its ports are free ones and its folder is a
# new one, so that this tutorial does not meet another cluster on this machine: a job finds its cluster by that folder. Usually the defaults are
# right: 6379 for nodes, 8265 for the dashboard and jobs, `/tmp/ray`.


# %%
def free_port() -> int:
    """A port on which nothing listens."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


os.environ["RAY_TMPDIR"] = tempfile.mkdtemp(prefix="ray-")
port, dashboard = free_port(), free_port()
ray = str(Path(sys.executable).parent / "ray")
command = [ray, "start", "--head", "--block", "--num-cpus=2", "--node-ip-address=127.0.0.1", f"--port={port}"]
command += [
    "--dashboard-host=127.0.0.1",
    f"--dashboard-port={dashboard}",
    f"--dashboard-agent-listen-port={free_port()}",
]
with Path("head.log").open("wb") as log:
    head = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)


# %% [markdown]
# It is ready when it lists its jobs, of which there are none yet. `cxr-ray submit` is the command for everything about jobs:


# %%
url = f"http://127.0.0.1:{dashboard}"


def cxr(*words: str) -> tuple[int, str]:
    """Run a `cxr-ray` command on this machine, and return its exit code and what it printed."""
    done = subprocess.run(
        [sys.executable, "-m", "cxr_ray", *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    return done.returncode, done.stdout


while cxr("submit", "--address", url, "--status")[0] != 0:
    assert head.poll() is None, Path("head.log").read_text()
    time.sleep(1)
print("the head accepts jobs")

# %% [markdown]
# ## Data that every node sees
#
# The store and the runs lie where every node can read and write them: a shared file system, or for stores a URL such as `s3://`. Here that is this
# folder. The ingest uses the cores of the cluster, one task per shard.

# %%
import cxr_ray

address = f"127.0.0.1:{port}"
raw = cxr_ray.make_phantom("raw", patients=60, size=48, seed=1)
store = cxr_ray.ingest(cxr_ray.read_dataset("phantom", raw), raw, "shards", size=48, address=address)
print(store)

# %% [markdown]
# ## Train on it
#
# The same configuration, first in this process, then by two workers on the cluster. `batch_size` is global: both trainings see the same images in
# the same order, so their losses agree, up to the order of sums.

# %%
runs = str(Path("runs").absolute())
settings = {
    "data.shards": store,
    "model.name": "lenet",
    "optim.lr": 1e-3,
    "train.epochs": 2,
    "train.batch_size": 32,
    "train.precision": "fp32",
    "augment.probability": 0.0,
    "report.trackers": [],
    "output": runs,
}
here = cxr_ray.train({**settings, "name": "here"})
there = cxr_ray.train({**settings, "name": "there", "train.workers": 2}, address=address)


# %%
def losses(run: cxr_ray.Run) -> dict[int, float]:
    """The train loss of each epoch."""
    table = run.metrics.query("part == 'train' and metric == 'loss' and label == ''")
    return dict(zip(table["epoch"], table["value"], strict=True))


for epoch in losses(here):
    print(f"epoch {epoch}: {losses(here)[epoch]:.6f} here, {losses(there)[epoch]:.6f} by two workers")

# %% [markdown]
# A worker that dies is replaced, and the training continues from its last checkpoint; with `train.min_workers` it goes on with fewer until a lost node
# is back. The run folder is the only state: nothing of it is on the nodes.
#
# ## Submit a job
#
# A long training should not end with your terminal. `cxr-ray submit -- COMMAND ...` runs a command as a job of the cluster and follows its log;
# Ctrl-C ends the following, not the job. The working directory is uploaded, which here is an empty one, since data and results are absolute paths
# that every node sees. `--python` is the interpreter on the cluster that has `cxr_ray`.

# %%
Path("empty").mkdir()
job = ["submit", "--address", url, "--working-dir", "empty", "--python", sys.executable, "--"]
code, output = cxr(
    *job, "train", "--store", str(store.path), "--output", runs, "--name", "job", "--model", "lenet", "--epochs", "1",
    "--workers", "2", "--report.trackers", "[]",
)  # fmt: skip
print("exit code", code)
print("\n".join(line for line in output.splitlines() if line.startswith(("job:", "run:", "epoch", "result:", "next:"))))

# %% [markdown]
# The log of a job may break off on a busy machine. The job goes on, and its run folder says how far it is.

# %%
while cxr_ray.load_run("runs/job").info["status"] == "started":
    time.sleep(1)
print(cxr_ray.load_run("runs/job"))

# %% [markdown]
# A mistake costs one line, and no machine is kept busy. A forgotten `--output` is noticed before anything is uploaded, and a misspelt flag by the job:

# %%
code, output = cxr(*job, "train", "--store", str(store.path))
print("exit code", code, "-", output.strip())
code, output = cxr(*job, "train", "--store", str(store.path), "--output", runs, "--epoch", "1")
print("exit code", code, "-", next(line for line in output.splitlines() if "error" in line))

# %% [markdown]
# ## The results are files
#
# The run of the job is a folder like any other: evaluate it where you like.

# %%
cxr_ray.evaluate("runs/job", split="val").table[["recall", "auroc", "precision"]].round(3)

# %%
head.terminate()
head.wait(timeout=60)
print("the head has ended")

# %% [markdown]
# The same with `cxr_ray.tune(..., address=...)`, `cxr-ray tune --address auto` and `cxr_ray.explain(..., workers=4)`. A sweep uses all nodes, one
# trial per free place. [](../how-to/cluster.md) starts real clusters; [](../concepts/scale.md) says what grows with what.

# %% tags=["remove-cell"]
assert code != 0 and here.info["status"] == there.info["status"] == "finished"
assert all(abs(value - losses(there)[epoch]) < 1e-4 for epoch, value in losses(here).items())
assert Path("runs/job/model.safetensors").is_file()

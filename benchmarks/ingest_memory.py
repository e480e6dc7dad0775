"""Peak memory of an ingest at few and at many small images: flat, or not.

    python benchmarks/ingest_memory.py --folder /tmp/ingest_memory [--few 5000] [--many 50000] [--side 64] [--cores 2]

Makes PNG files in --folder (which must not exist): `--different` pictures, linked to as many names as needed. Each count
is ingested in a process of its own with a Ray of its own. Every 0.2 s the proportional set size (what a process holds,
its share of shared memory, the object store's too) of that process, of Ray's workers and of all of Ray is read from /proc; the
highest of each is printed, and the ratio of many to few.
"""

import argparse
import json
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
from PIL import Image


def make(folder: Path, count: int, side: int, different: int) -> None:
    """`count` names of `different` pictures with a coarse field and fine noise."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    for i in range(count):
        path = folder / f"{i:06d}.png"
        if i < different:
            coarse = Image.fromarray(rng.normal(120, 60, (8, 8)).astype(np.float32)).resize((side, side))
            Image.fromarray(np.clip(np.asarray(coarse) + rng.normal(0, 3, (side, side)), 0, 255).astype(np.uint8)).save(
                path
            )
        else:
            path.hardlink_to(folder / f"{i % different:06d}.png")


def family(root: int) -> dict[int, str]:
    """Process `root` and all below it, with their command lines."""
    parent, words = {}, {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                words[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except (OSError, IndexError):
                continue
    found = {root}
    while more := {pid for pid, above in parent.items() if above in found} - found:
        found |= more
    return {pid: words.get(pid, "") for pid in found}


def held_mib(pid: int) -> float:
    """Proportional set size of a process in MiB; 0 where it is gone."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


def measure(folder: Path, count: int, side: int, cores: int) -> None:
    """Ingest the first `count` files here and print the peaks as JSON."""
    import os

    from cxr_ray.datasets import Records, records_table
    from cxr_ray.on_ray import cluster
    from cxr_ray.on_ray.ingest import ingest

    table = records_table({"image": [f"{i:06d}.png" for i in range(count)]}, {"a": np.arange(count) % 2}, rows=count)
    records = Records(table, ("a",), "binary", {}, (), ("a",), (), (), None)
    peak = {"driver": 0.0, "workers": 0.0, "all": 0.0}
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.2):
            held = {pid: (held_mib(pid), words) for pid, words in family(os.getpid()).items()}
            now = {
                "driver": held.get(os.getpid(), (0.0, ""))[0],
                "workers": sum(mib for mib, words in held.values() if words.startswith("ray::")),
                "all": sum(mib for mib, _ in held.values()),
            }
            peak.update({name: max(peak[name], mib) for name, mib in now.items()})

    with cluster.session(None, num_cpus=cores):
        thread = threading.Thread(target=watch)
        thread.start()
        made = ingest(records, folder / "images", folder / f"store-{count}", source="bench", size=(side, side))
        over.set()
        thread.join()
    print(json.dumps({"rows": made.rows, "seconds": made.seconds, **peak}), flush=True)


def main() -> None:
    """Print one line a count, and the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--few", type=int, default=5000)
    parser.add_argument("--many", type=int, default=50_000)
    parser.add_argument("--side", type=int, default=64)
    parser.add_argument("--different", type=int, default=300)
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--measure", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        measure(options.folder, options.measure, options.side, options.cores)
        return
    try:
        make(options.folder / "images", options.many, options.side, options.different)
        found = []
        for count in (options.few, options.many):
            started = time.perf_counter()
            out = subprocess.run(
                [sys.executable, __file__, "--folder", str(options.folder), "--measure", str(count), "--side", str(options.side), "--cores", str(options.cores)],
                capture_output=True, text=True, check=True,
            ).stdout.splitlines()[-1]  # fmt: skip
            found.append(json.loads(out))
            peaks = ", ".join(f"{name} {found[-1][name]:,.0f} MiB" for name in ("driver", "workers", "all"))
            print(f"{found[-1]['rows']:,} images: {peaks} ({time.perf_counter() - started:.0f} s)", flush=True)
        few, many = found
        print(
            "many / few: " + ", ".join(f"{name} {many[name] / few[name]:.3f}" for name in ("driver", "workers", "all"))
        )
    finally:
        shutil.rmtree(options.folder, ignore_errors=True)


if __name__ == "__main__":
    main()

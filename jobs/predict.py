"""Predict an archive with a run on the cluster:
`ray job submit --entrypoint-num-cpus 1 --working-dir . -- python jobs/predict.py RUN INPUT OUT`.

With a CPU of its own it runs on a worker; without one it would run on the head.
"""

import sys
from pathlib import Path

# A job runs in the uploaded working directory, which contains cxr_ray: the package need not be installed.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from cxr_ray.cli import main

if __name__ == "__main__":
    sys.exit(main(["predict", *sys.argv[1:]]))

"""Serve a run from the cluster: `ray job submit --working-dir . -- python jobs/serve.py RUN`."""

import sys
from pathlib import Path

# A job runs in the uploaded working directory, which contains cxr_ray: the package need not be installed.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from cxr_ray.cli import main

if __name__ == "__main__":
    sys.exit(main(["serve", *sys.argv[1:]]))

"""Prints how much of each package the tests without Ray reach: lines and branches, from the data of `make coverage`.

    make coverage

Code that runs in Ray's workers, and `on_ray` itself, is reached by the other tests, which run in processes that are not measured.
"""

import json
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import coverage

ROOT = Path(__file__).resolve().parents[1]
LEAST = 0.85
ELSEWHERE = {"on_ray": "the tests with Ray run it", "cli": "the tests with Ray run most commands to their end"}
"""Packages that may be below `LEAST`, and why."""


def by_package(report: dict[str, Any]) -> dict[str, tuple[int, int]]:
    """(reached, all) lines and branches of each package and root module, from coverage's JSON report."""
    sums: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for name, file in report["files"].items():
        parts = Path(name).parts
        package = Path(parts[parts.index("cxr_ray") + 1]).stem
        found = file["summary"]
        sums[package][0] += found["covered_lines"] + found["covered_branches"]
        sums[package][1] += found["num_statements"] + found["num_branches"]
    return {package: (reached, every) for package, (reached, every) in sorted(sums.items())}


def main() -> int:
    """Print a line for each package; 1 if one without a reason is below `LEAST`."""
    measured = coverage.Coverage(config_file=str(ROOT / "pyproject.toml"))
    measured.load()
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "report.json"
        measured.json_report(outfile=str(out))
        packages = by_package(json.loads(out.read_text(encoding="utf-8")))
    low = []
    for package, (reached, every) in packages.items():
        share = reached / max(every, 1)
        about = ELSEWHERE.get(package, "") if share < LEAST else ""
        if share < LEAST and not about:
            low.append(package)
        print(f"{package:12} {share:6.1%} of {every:6,}  {about}".rstrip())
    total = [sum(column) for column in zip(*packages.values(), strict=True)]
    print(f"{'all':12} {total[0] / max(total[1], 1):6.1%} of {total[1]:6,} lines and branches")
    if low:
        print(f"below {LEAST:.0%}: {', '.join(low)}")
    return bool(low)


if __name__ == "__main__":
    sys.exit(main())

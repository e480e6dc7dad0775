"""`cxr-ray verify`: is a store what was written?"""

import shlex
import sys
from pathlib import Path

from cyclopts import App

app = App(name="verify", help_format="markdown")


@app.default
def verify(shards: Path, /) -> int:
    """Check every byte of a store against its checksums.

    Ends with 2 where a file is missing, cut, changed or does not belong; each is named.

    Parameters
    ----------
    shards
        Folder that ingest wrote.
    """
    from cxr_ray import shards as stores

    problems = stores.verify(shards)
    for problem in problems:
        print(f"cxr-ray: {problem}", file=sys.stderr)
    if problems:
        print(
            f"cxr-ray: error: {shards.resolve()}: {len(problems)} problems; ingest the dataset again into a new folder",
            file=sys.stderr,
        )
        return 2
    print(f"every checksum holds: {shards.resolve()}")
    print(f"next: cxr-ray describe {shlex.quote(str(shards))}")
    return 0

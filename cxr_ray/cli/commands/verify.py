"""`cxr-ray verify`: is a store what was written?"""

import shlex
import sys

from cyclopts import App

app = App(name="verify", help_format="markdown")


@app.default
def verify(shards: str, /) -> int:
    """Check every byte of a store against its checksums.

    Ends with 2 where a file is missing, cut, changed or does not belong; each is named.

    Parameters
    ----------
    shards
        Folder or URL that ingest wrote; a remote store is read where it lies.
    """
    from cxr_ray.data import store_format
    from cxr_ray.storage.remote import place

    where = place(shards).resolve()
    problems = store_format.verify(shards)
    for problem in problems:
        print(f"cxr-ray: {problem}", file=sys.stderr)
    if problems:
        print(
            f"cxr-ray: error: {where}: {len(problems)} problems; ingest the dataset again into a new folder",
            file=sys.stderr,
        )
        return 2
    print(f"every checksum holds: {where}")
    print(f"next: cxr-ray describe {shlex.quote(str(shards))}")
    return 0

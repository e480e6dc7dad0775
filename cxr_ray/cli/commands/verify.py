"""`cxr-ray verify`: checks the files of a store. The checks are in data.store_format."""

import shlex
import sys

from cyclopts import App

from cxr_ray.cli import next_steps

app = App(name="verify", help_format="markdown")


@app.default
def verify(shards: str, /) -> int:
    """Check every byte of a store against its checksums.

    Lists every file that is missing, truncated, changed or unexpected; the exit code is then 2.

    Parameters
    ----------
    shards
        Folder or URL of the store. A remote store is read in place.
    """
    from cxr_ray.data import store_format
    from cxr_ray.storage.remote import to_path

    where = to_path(shards).resolve()
    problems = store_format.verify(shards)
    for problem in problems:
        print(f"cxr-ray: {problem}", file=sys.stderr)
    if problems:
        print(
            f"cxr-ray: error: {where}: {len(problems)} problems; ingest the dataset again into a new folder",
            file=sys.stderr,
        )
        return 2
    print(f"all checksums match: {where}")
    next_steps.show(f"cxr-ray describe {shlex.quote(str(shards))}")
    return 0

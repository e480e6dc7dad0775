"""The weights that a model is of, as metadata names them: a digest per file, and one version of them all."""

from collections.abc import Sequence
from pathlib import Path

from cxr_ray.data.store_format import digest_of
from cxr_ray.runs import Run
from cxr_ray.storage.atomic import sha256


def digests_of(model: Run | Path) -> list[str]:
    """The sha256 of a file of weights, or of those of a run or of each member of an ensemble, in their order."""
    if isinstance(model, Path):
        return [sha256(model)]
    return [sha256(each.weights) for each in model.members or [model]]


def version_of(digests: Sequence[str]) -> str:
    """One digest for all weights of a model: that of its only file, else one of the digests."""
    return digests[0] if len(digests) == 1 else digest_of(list(digests))

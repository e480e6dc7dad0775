"""Patients and images that occur in more than one part. Pure: columns of the index in, pairs of rows out. The plan decides.

Equal patients and equal pixels are certain. Near duplicates are a guess in two steps: perceptual hashes that differ in few
bits, then, because chest X-rays resemble each other, the correlation of the two thumbnails.
"""
# N rows, M rows of another part, P pairs of rows

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from PIL import Image

Rows = npt.NDArray[np.int64]
ReadImages = Callable[[Rows], npt.NDArray[np.uint8]]
"""Images [N, H, W] of row numbers [N]."""

PRIORITY = ("test", "val", "train")
"""Which part keeps a patient or image that occurs in several: the first of these."""
MIN_CORRELATION = 0.98
"""Images whose 32 x 32 thumbnails correlate at least so much count as one image. Measured on 658 images of NIH
ChestX-ray14: images of two patients reach 0.959; copies with JPEG quality 50, 1.1 times the brightness, or gamma 0.8 have
0.987 and more."""
BLOCK_PAIRS = 2**21
"""Pairs of hashes that are compared at once: 50 MiB."""
PAIRS_SHOWN = 3
"""Pairs that a message names."""
COLUMNS = ["what", "row", "part", "other", "other_part"]


def shared_keys(table: pd.DataFrame, *, by_patient: bool) -> dict[str, Rows]:
    """What must not occur in two parts: for `patient` and for `image`, a number per row [N], equal for the same patient or
    the same pixels, -1 for none. An image of a single gray value shows nobody and counts as none."""
    found = {}
    if by_patient and "patient" in table:
        found["patient"] = pd.factorize(table["patient"])[0].astype(np.int64)
    if "pixels_sha256" in table:
        image_N = pd.factorize(table["pixels_sha256"])[0].astype(np.int64)
        found["image"] = np.where(table["variance"].to_numpy() > 0, image_N, -1)
    return found


def join_groups(group_N: Rows, table: pd.DataFrame) -> Rows:
    """Groups [N] with those joined that contain the same image, so that no split of groups separates copies."""
    image_N = shared_keys(table, by_patient=False).get("image", np.full(len(table), -1))
    copied_N = (image_N >= 0) & pd.Series(image_N).duplicated(keep=False).to_numpy()
    if not copied_N.any():
        return group_N
    code_N, names = pd.factorize(group_N)
    from scipy.sparse import coo_array  # slow to import, and rarely needed
    from scipy.sparse.csgraph import connected_components

    # A graph of groups and images, with an edge for each row that has a copy: its connected components are the new groups.
    edges = code_N[copied_N], len(names) + pd.factorize(image_N[copied_N])[0]
    size = int(edges[1].max()) + 1
    graph = coo_array((np.ones(len(edges[0]), bool), edges), shape=(size, size))
    return connected_components(graph, directed=False)[1][code_N].astype(np.int64)


def pairs_across_parts(table: pd.DataFrame, part_N: npt.NDArray[np.object_], *, by_patient: bool) -> pd.DataFrame:
    """Pairs of rows in two parts with the same patient or image: one pair for each further part that it occurs in.

    Columns: what (patient or image), row, part, other, other_part. `part` comes before `other_part` in `PRIORITY`."""
    pairs = []
    order_N = pd.Series(part_N).map({part: at for at, part in enumerate(PRIORITY)}).to_numpy()
    for what, key_N in shared_keys(table, by_patient=by_patient).items():
        frame = pd.DataFrame({"key": key_N, "order": order_N, "row": table["row"].to_numpy(np.int64), "part": part_N})
        frame = frame[frame["key"] >= 0].drop_duplicates(["key", "order"]).sort_values(["key", "order"], kind="stable")
        first_of_key = frame.drop_duplicates("key").set_index("key")
        other = frame[frame["key"].duplicated()]
        first = first_of_key.loc[other["key"]]
        pairs.append(
            pd.DataFrame(
                {
                    "what": what, "row": first["row"].to_numpy(), "part": first["part"].to_numpy(),
                    "other": other["row"].to_numpy(), "other_part": other["part"].to_numpy(),
                }
            )
        )  # fmt: skip
    return pd.concat(pairs, ignore_index=True) if pairs else pd.DataFrame(columns=COLUMNS)


def leaking_rows(table: pd.DataFrame, part_N: npt.NDArray[np.object_], *, by_patient: bool) -> npt.NDArray[np.bool_]:
    """Rows [N] to drop so that no patient or image occurs in two parts: from train what is in val or test, from val what is
    in test."""
    out_N = np.zeros(len(table), dtype=bool)
    for key_N in shared_keys(table, by_patient=by_patient).values():
        for at, part in enumerate(PRIORITY):
            earlier = np.unique(key_N[np.isin(part_N, PRIORITY[:at])])
            out_N |= (part_N == part) & (key_N >= 0) & np.isin(key_N, earlier)
    return out_N


def near_duplicates(
    table: pd.DataFrame, rows: Mapping[str, Rows], *, distance: int, images: ReadImages | None = None
) -> pd.DataFrame:
    """Pairs of rows in two parts whose images are nearly the same: their hashes differ in at most `distance` of 64 bits (an
    even number as a rule), and, if `images` is given, their thumbnails correlate by at least `MIN_CORRELATION`.

    Columns: row, part, other, other_part, distance; the smallest distance first. Images of equal pixels or of a single gray
    value are not reported."""
    pairs = []
    if "phash" in table:
        table = table[table["variance"] > 0]
        known = pd.Index(table["row"])
        hash_N = table["phash"].to_numpy(np.uint64)
        in_part = {part: rows[part][np.isin(rows[part], known)] for part in PRIORITY if part in rows}
        hashes = {part: hash_N[known.get_indexer(part_rows)] for part, part_rows in in_part.items()}
        for at, part in enumerate(in_part):
            for other in list(in_part)[at + 1 :]:
                i, j, bits = similar_hashes(hashes[part], hashes[other], distance)
                one, two = in_part[part][i], in_part[other][j]
                pairs.append(
                    pd.DataFrame({"row": one, "part": part, "other": two, "other_part": other, "distance": bits})
                )
    if not pairs:
        return pd.DataFrame(columns=[*COLUMNS[1:], "distance"])
    found = pd.concat(pairs, ignore_index=True)
    if "pixels_sha256" in table:
        digest = table.set_index("row")["pixels_sha256"]
        found = found[digest.loc[found["row"]].to_numpy() != digest.loc[found["other"]].to_numpy()]
    if images is not None and len(found):
        found = found[correlation(found["row"].to_numpy(), found["other"].to_numpy(), images) >= MIN_CORRELATION]
    return found.sort_values(["distance", "row", "other"], kind="stable").reset_index(drop=True)


def similar_hashes(
    one_N: npt.NDArray[np.uint64], two_M: npt.NDArray[np.uint64], distance: int
) -> tuple[Rows, Rows, npt.NDArray[np.uint8]]:
    """Positions i, j [P] and number of differing bits [P] of all pairs from `one_N` and `two_M` that differ in at most
    `distance` bits.

    If 64 bits are cut into `distance` + 1 pieces, two such hashes agree in at least one piece: only those are compared."""
    edges = np.linspace(0, 64, distance + 2).round().astype(int)
    found: list[npt.NDArray[np.int64]] = []
    for low, high in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        mask = np.uint64((1 << (high - low)) - 1)
        one_key, two_key = (one_N >> np.uint64(low)) & mask, (two_M >> np.uint64(low)) & mask
        order = np.argsort(two_key, kind="stable")
        start = np.searchsorted(two_key[order], one_key, side="left")
        count = np.searchsorted(two_key[order], one_key, side="right") - start
        for i, j in _expanded(start, count):
            j = order[j]
            near_P = np.bitwise_count(one_N[i] ^ two_M[j]) <= distance
            found.append(i[near_P] * len(two_M) + j[near_P])
    pair_P = np.unique(np.concatenate(found)) if found else np.zeros(0, np.int64)
    i, j = np.divmod(pair_P, max(1, len(two_M)))
    return i, j, np.bitwise_count(one_N[i] ^ two_M[j])


def _expanded(start: Rows, count: Rows) -> Iterator[tuple[Rows, Rows]]:
    """(i, k) for each k in start[i] ... start[i] + count[i] - 1, about `BLOCK_PAIRS` at a time."""
    end_N = np.cumsum(count)
    total = int(end_N[-1]) if len(end_N) else 0
    cuts = np.searchsorted(end_N, np.arange(BLOCK_PAIRS, total + BLOCK_PAIRS, BLOCK_PAIRS), side="left") + 1
    begin = 0
    for end in np.unique(np.minimum(cuts, len(count))).tolist():
        n = count[begin:end]
        i = np.repeat(np.arange(begin, end), n)
        yield i, np.arange(len(i)) - np.repeat(np.cumsum(n) - n - start[begin:end], n)
        begin = end


def correlation(one_P: Rows, two_P: Rows, images: ReadImages) -> npt.NDArray[np.float64]:
    """Pearson correlation [P] of the 32 x 32 thumbnails of the rows `one_P` and `two_P`. Each image is read once. An image of
    a single gray value has correlation 0 with every image."""
    wanted, at = np.unique(np.concatenate([one_P, two_P]), return_inverse=True)
    thumbs = np.empty((len(wanted), 1024), np.float32)
    for begin in range(0, len(wanted), 256):
        for k, pixels in enumerate(images(wanted[begin : begin + 256]), start=begin):
            small = np.asarray(Image.fromarray(pixels).resize((32, 32), Image.Resampling.BOX), np.float32).reshape(-1)
            thumbs[k] = small - small.mean()
    thumbs /= np.maximum(np.linalg.norm(thumbs, axis=1, keepdims=True), 1e-9)
    one_at, two_at = at[: len(one_P)], at[len(one_P) :]
    steps = [slice(k, k + 4096) for k in range(0, len(one_P), 4096)]
    return np.concatenate([np.einsum("pk,pk->p", thumbs[one_at[s]], thumbs[two_at[s]]) for s in steps])


def describe_pairs(pairs: pd.DataFrame, *, names: "pd.Series[Any] | None" = None) -> str:
    """`row 12 of test and row 40 of train`, for the first `PAIRS_SHOWN` pairs; with each file's name if `names` (by row) is
    given."""

    def one(row: int, part: str) -> str:
        name = "" if names is None else f" ({names[row]})"
        return f"row {row}{name} of {part}"

    shown: Iterable[Any] = pairs.head(PAIRS_SHOWN).itertuples(index=False)
    lines = [f"{one(p.row, p.part)} and {one(p.other, p.other_part)}" for p in shown]
    return "; ".join(lines) + (f"; and {len(pairs) - PAIRS_SHOWN:,} more" if len(pairs) > PAIRS_SHOWN else "")

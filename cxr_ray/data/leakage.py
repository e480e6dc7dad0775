"""Who, and which picture, stands in two parts. Pure: columns of the index in, pairs of rows out; refusing is the plan's.

The same patient and the same pixels are certain. Nearly the same picture is a guess in two steps: a perceptual hash that
differs in few bits, then, since chest X-rays resemble each other, the correlation of the two thumbnails.
"""
# N rows, P pairs of rows

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from PIL import Image
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

Rows = npt.NDArray[np.int64]
Images = Callable[[Rows], npt.NDArray[np.uint8]]

PARTS = ("test", "val", "train")
"""What stands in test is kept there, and what stands in val is kept before train."""
ALIKE = 0.98
"""Correlation of 32 x 32 thumbnails from which two pictures are one. Measured on 658 images of NIH ChestX-ray14: two
patients' pictures reach 0.959; copies at JPEG quality 50, 1.1 times as bright, or of gamma 0.8, keep 0.987 and more."""
BLOCK = 2**21  # pairs of hashes compared at once: 50 MiB
TOLD = 3  # pairs that a line names
COLUMNS = ["what", "row", "part", "other", "other_part"]


def keys(table: pd.DataFrame, *, by_patient: bool) -> dict[str, Rows]:
    """What must not stand in two parts: for each of patient and picture, a number [N] that equal ones share, -1 for none.

    Pictures are equal by their pixels; one of a single gray value shows nobody and counts as none."""
    found = {}
    if by_patient and "patient" in table:
        found["patient"] = pd.factorize(table["patient"])[0].astype(np.int64)
    if "pixels_sha256" in table:
        picture_N = pd.factorize(table["pixels_sha256"])[0].astype(np.int64)
        found["picture"] = np.where(table["variance"].to_numpy() > 0, picture_N, -1)
    return found


def together(group_N: Rows, table: pd.DataFrame) -> Rows:
    """Groups [N] that hold the same picture made one, so that a split of groups cannot part them; as given where none does."""
    picture_N = keys(table, by_patient=False).get("picture", np.full(len(table), -1))
    shared_N = (picture_N >= 0) & pd.Series(picture_N).duplicated(keep=False).to_numpy()
    if not shared_N.any():
        return group_N
    code_N, names = pd.factorize(group_N)
    ends = code_N[shared_N], len(names) + pd.factorize(picture_N[shared_N])[0]
    size = int(ends[1].max()) + 1
    joined = connected_components(coo_array((np.ones(len(ends[0]), bool), ends), shape=(size, size)), directed=False)[1]
    return joined[code_N].astype(np.int64)


def between(table: pd.DataFrame, part_N: npt.NDArray[np.object_], *, by_patient: bool) -> pd.DataFrame:
    """Pairs of rows of two parts that share a patient or a picture: one pair for each, and for each part that it also
    stands in. Columns: what (patient, picture), row, part, other, other_part; test before val before train."""
    pairs = []
    order_N = pd.Series(part_N).map({part: at for at, part in enumerate(PARTS)}).to_numpy()
    for what, key_N in keys(table, by_patient=by_patient).items():
        frame = pd.DataFrame({"key": key_N, "order": order_N, "row": table["row"].to_numpy(np.int64), "part": part_N})
        frame = frame[frame["key"] >= 0].drop_duplicates(["key", "order"]).sort_values(["key", "order"], kind="stable")
        first = frame.drop_duplicates("key").set_index("key")
        rest = frame[frame["key"].duplicated()]
        held = first.loc[rest["key"]]
        pairs.append(
            pd.DataFrame(
                {
                    "what": what, "row": held["row"].to_numpy(), "part": held["part"].to_numpy(),
                    "other": rest["row"].to_numpy(), "other_part": rest["part"].to_numpy(),
                }
            )
        )  # fmt: skip
    return pd.concat(pairs, ignore_index=True) if pairs else pd.DataFrame(columns=COLUMNS)


def leaking(table: pd.DataFrame, part_N: npt.NDArray[np.object_], *, by_patient: bool) -> npt.NDArray[np.bool_]:
    """Rows [N] to leave out, so that nothing stands in two parts: of train what val or test holds, of val what test holds."""
    out_N = np.zeros(len(table), dtype=bool)
    for key_N in keys(table, by_patient=by_patient).values():
        for at, part in enumerate(PARTS):
            earlier = np.unique(key_N[np.isin(part_N, PARTS[:at])])
            out_N |= (part_N == part) & (key_N >= 0) & np.isin(key_N, earlier)
    return out_N


def near(table: pd.DataFrame, rows: Mapping[str, Rows], *, distance: int, images: Images | None = None) -> pd.DataFrame:
    """Pairs of rows of two parts that show nearly the same picture: the hashes differ in at most `distance` bits (64
    in all, even numbers as a rule) and, where `images` gives pixels, the thumbnails correlate from `ALIKE` on.

    Columns: row, part, other, other_part, distance; the nearest first. Equal pixels are `between`'s."""
    pairs = []
    if "phash" in table:
        table = table[table["variance"] > 0]
        known = pd.Index(table["row"])
        hash_N = table["phash"].to_numpy(np.uint64)
        in_part = {part: rows[part][np.isin(rows[part], known)] for part in PARTS if part in rows}
        hashes = {part: hash_N[known.get_indexer(held)] for part, held in in_part.items()}
        for at, part in enumerate(in_part):
            for other in list(in_part)[at + 1 :]:
                i, j, bits = within(hashes[part], hashes[other], distance)
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
        found = found[correlation(found["row"].to_numpy(), found["other"].to_numpy(), images) >= ALIKE]
    return found.sort_values(["distance", "row", "other"], kind="stable").reset_index(drop=True)


def within(
    one_N: npt.NDArray[np.uint64], two_M: npt.NDArray[np.uint64], distance: int
) -> tuple[Rows, Rows, npt.NDArray[np.uint8]]:
    """Positions (i, j) and differing bits of all pairs of `one_N` and `two_M` that differ in at most `distance` bits.

    Cut into `distance` + 1 pieces, two such hashes agree in one piece at least: only those that do are compared."""
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
    """(i, k) for each k in start[i] ... start[i] + count[i] - 1, about `BLOCK` at a time."""
    upto = np.cumsum(count)
    total = int(upto[-1]) if len(upto) else 0
    cuts = np.searchsorted(upto, np.arange(BLOCK, total + BLOCK, BLOCK), side="left") + 1
    begin = 0
    for end in np.unique(np.minimum(cuts, len(count))).tolist():
        n = count[begin:end]
        i = np.repeat(np.arange(begin, end), n)
        yield i, np.arange(len(i)) - np.repeat(np.cumsum(n) - n - start[begin:end], n)
        begin = end


def correlation(one_P: Rows, two_P: Rows, images: Images) -> npt.NDArray[np.float64]:
    """Pearson's correlation [P] of the 32 x 32 thumbnails of the rows `one_P` and `two_P`; each picture is read once."""
    wanted, at = np.unique(np.concatenate([one_P, two_P]), return_inverse=True)
    thumbs = np.empty((len(wanted), 1024), np.float32)
    for begin in range(0, len(wanted), 256):
        for k, picture in enumerate(images(wanted[begin : begin + 256]), start=begin):
            small = np.asarray(Image.fromarray(picture).resize((32, 32), Image.Resampling.BOX), np.float32).reshape(-1)
            thumbs[k] = small - small.mean()
    thumbs /= np.maximum(np.linalg.norm(thumbs, axis=1, keepdims=True), 1e-9)
    one_at, two_at = at[: len(one_P)], at[len(one_P) :]
    steps = [slice(k, k + 4096) for k in range(0, len(one_P), 4096)]
    return np.concatenate([np.einsum("pk,pk->p", thumbs[one_at[s]], thumbs[two_at[s]]) for s in steps])


def told(pairs: pd.DataFrame, *, names: "pd.Series[Any] | None" = None) -> str:
    """`row 12 of test and row 40 of train`, of the first `TOLD` pairs; with the file of each where `names` (by row) gives it."""

    def one(row: int, part: str) -> str:
        name = "" if names is None else f" ({names[row]})"
        return f"row {row}{name} of {part}"

    rows: Iterable[Any] = pairs.head(TOLD).itertuples(index=False)
    said = [f"{one(p.row, p.part)} and {one(p.other, p.other_part)}" for p in rows]
    return "; ".join(said) + (f"; and {len(pairs) - TOLD:,} more" if len(pairs) > TOLD else "")

"""The baselines on synthetic images: each finds the marks that it can see, and no others."""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pytest

from cxr_ray.evaluation import baselines as module
from cxr_ray.evaluation.baselines import border, fit_baselines, thumbnails
from cxr_ray.metrics import compute_metrics, find


@dataclass
class FakeStore:
    """Images by global row number; records how many were read at once."""

    pixels: npt.NDArray[np.uint8]
    read: list[int] = field(default_factory=list)

    def images(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
        self.read.append(len(rows))
        return self.pixels[rows]


@dataclass
class FakePlan:
    rows: dict[str, npt.NDArray[np.int64]]
    truth: dict[str, npt.NDArray[np.float32]]
    task: str


def make(where: str, *, rows: int = 300, side: int = 40, seed: int = 0) -> tuple[FakeStore, npt.NDArray[np.float32]]:
    """Noise, brighter for positives at the `border`, in the `middle`, or `nowhere`."""
    rng = np.random.default_rng(seed)
    truth = (rng.random((rows, 1)) < 0.4).astype(np.float32)
    pixels = rng.normal(110, 25, (rows, side, side))
    mark = np.zeros((side, side))
    if where == "border":
        mark[:2, :] = 12
    if where == "middle":
        mark[16:24, 16:24] = 12
    return FakeStore(np.clip(pixels + truth[:, :, None] * mark, 0, 255).astype(np.uint8)), truth


def plan_of(truth: npt.NDArray[np.float32], task: str = "binary") -> FakePlan:
    rows = np.random.default_rng(9).permutation(len(truth))
    cut = 2 * len(rows) // 3
    train, test = np.sort(rows[:cut]), np.sort(rows[cut:])
    return FakePlan({"train": train, "test": test}, {"train": truth[train], "test": truth[test]}, task)


def slow_thumbnail(image: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    height, width = image.shape
    return np.array(
        [
            [
                np.mean(
                    [
                        [int(image[y, x]) for x in range(j * width // 16, (j + 1) * width // 16)]
                        for y in range(i * height // 16, (i + 1) * height // 16)
                    ]
                )
                for j in range(16)
            ]
            for i in range(16)
        ]
    )


@pytest.mark.parametrize("size", [(16, 16), (32, 64), (37, 50), (224, 224)])
def test_thumbnails_are_block_means(size: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, *size)).astype(np.uint8)
    small = thumbnails(pixels)
    for image, actual in zip(pixels, small, strict=True):
        np.testing.assert_allclose(actual, slow_thumbnail(image), rtol=1e-6)


def test_an_image_that_is_too_small_is_refused() -> None:
    with pytest.raises(ValueError, match="12 x 40 pixels are smaller"):
        thumbnails(np.zeros((1, 12, 40), np.uint8))


def test_the_border_is_the_outer_ring() -> None:
    small = np.arange(256, dtype=np.float32).reshape(1, 16, 16)
    ring = border(small)
    expected = [16 * i + j for i in range(16) for j in range(16) if i in (0, 15) or j in (0, 15)]
    assert ring.tolist() == [expected] and ring.shape == (1, 60)


def auroc(prob: npt.NDArray[np.float64], truth: npt.NDArray[np.float32]) -> float:
    value = find(
        {"test": compute_metrics(truth, prob, labels=["a"], task="binary", thresholds_L=[0.5])}, "test/auroc/a"
    )
    assert value is not None
    return value


@pytest.mark.parametrize(
    ("where", "thumbnail", "frame"),
    [("border", (0.9, 1), (0.95, 1)), ("middle", (0.75, 1), (0.3, 0.7)), ("nowhere", (0.3, 0.7), (0.3, 0.7))],
)
def test_each_baseline_finds_what_it_can_see(
    where: str, thumbnail: tuple[float, float], frame: tuple[float, float]
) -> None:
    store, truth = make(where)
    plan = plan_of(truth)
    out = fit_baselines(store, plan, "test", seed=0)
    assert set(out) == {"thumbnail", "border"}
    assert thumbnail[0] <= auroc(out["thumbnail"], plan.truth["test"]) <= thumbnail[1]
    assert frame[0] <= auroc(out["border"], plan.truth["test"]) <= frame[1]


def test_labels_with_one_class_or_unknown_rows() -> None:
    store, truth = make("border")
    rng = np.random.default_rng(1)
    never, unknown = np.zeros_like(truth), np.full_like(truth, np.nan)
    patchy = np.where(rng.random(truth.shape) < 0.5, np.nan, truth)
    plan = plan_of(np.hstack([patchy, never, unknown, np.ones_like(truth)]).astype(np.float32), "multilabel")
    prob = fit_baselines(store, plan, "test", seed=0)["border"]
    assert (prob[:, 1] == 0.0).all() and (prob[:, 2] == 0.5).all() and (prob[:, 3] == 1.0).all()
    assert auroc(prob[:, :1], truth[plan.rows["test"]]) > 0.9


def test_unknown_cells_are_not_read_as_negative() -> None:
    store, truth = make("border")
    plan = plan_of(truth)
    hidden = plan.truth["train"].copy()
    hidden[np.flatnonzero(hidden[:, 0] == 1)[10:]] = np.nan  # nearly all positives hidden
    known = ~np.isnan(hidden[:, 0])
    partly_hidden = FakePlan({**plan.rows, "train": plan.rows["train"]}, {**plan.truth, "train": hidden}, "binary")
    share = hidden[known].mean()
    prob = fit_baselines(store, partly_hidden, "test", seed=0)["border"]
    assert prob.mean() == pytest.approx(share, abs=0.12)


def test_classes_share_one_regression() -> None:
    rng = np.random.default_rng(2)
    kind = rng.integers(0, 3, 240)
    pixels = rng.normal(100, 15, (240, 32, 32))
    for k in range(3):
        pixels[kind == k, :, k * 10 : k * 10 + 10] += 12
    truth = np.eye(4, dtype=np.float32)[kind]  # a fourth class that never occurs
    truth[:5] = np.nan
    plan = plan_of(truth, "multiclass")
    prob = fit_baselines(FakeStore(np.clip(pixels, 0, 255).astype(np.uint8)), plan, "test", seed=0)["thumbnail"]
    np.testing.assert_allclose(prob.sum(axis=1), 1.0, atol=1e-6)
    assert (prob[:, 3] == 0).all()
    assert (prob.argmax(axis=1) == kind[plan.rows["test"]]).mean() > 0.9


def test_train_rows_are_limited_to_a_seeded_sample_and_read_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK", 32)
    store, truth = make("border")
    plan = plan_of(truth)
    first = fit_baselines(store, plan, "test", seed=3, max_rows=80)["border"]
    assert max(store.read) <= 32 and sum(store.read) == 80 + len(plan.rows["test"])
    np.testing.assert_array_equal(fit_baselines(store, plan, "test", seed=3, max_rows=80)["border"], first)
    assert not np.array_equal(fit_baselines(store, plan, "test", seed=4, max_rows=80)["border"], first)


def test_an_empty_part_has_no_rows() -> None:
    store, truth = make("border", rows=60)
    plan = plan_of(truth)
    plan.rows["test"], plan.truth["test"] = np.zeros(0, np.int64), np.zeros((0, 1), np.float32)
    assert fit_baselines(store, plan, "test", seed=0)["thumbnail"].shape == (0, 1)

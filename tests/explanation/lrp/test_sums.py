"""Sums of relevance per image."""

import torch

from cxr_ray.explanation.lrp.sums import per_image, stabilised, total
from tests.explanation.lrp.networks import images


def test_sums_run_over_all_but_the_images() -> None:
    c, a = images(0, 6, 2, 3), images(1, 1, 2, 1)
    wanted = [
        sum(float(c[r, i, j] * a[0, i, 0]) for r in (2 * n, 2 * n + 1) for i in range(2) for j in range(3))
        for n in range(3)
    ]
    assert torch.allclose(per_image(c, a, 3), torch.tensor(wanted).double())
    assert torch.allclose(total(c * a, 3), torch.tensor(wanted).double())
    assert per_image(c[:, 0, 0], a[0, 0, 0], 6).shape == (6,)


def test_half_precision_is_summed_in_float32() -> None:
    ones = torch.ones(1, 1000, dtype=torch.bfloat16)
    assert per_image(ones, ones, 1).tolist() == [1000.0] and total(ones, 1).dtype == torch.float32


def test_the_stabiliser_moves_denominators_away_from_zero() -> None:
    z = torch.tensor([-2.0, 0.0, 0.5])
    assert torch.allclose(stabilised(z, 0.5), torch.tensor([-2.0 / -2.5, 0.0, 0.5 / 1.0]))

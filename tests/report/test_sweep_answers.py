"""The first screen of a sweep's page: its answers are the effects of its trials, and it claims nothing that chance explains."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cxr_ray.report import sweep_answers, sweep_page
from cxr_ray.tuning import combinations, ranking
from cxr_ray.tuning.combinations import Row
from cxr_ray.tuning.effects import adjusted, effects
from cxr_ray.tuning.sweep import Sweep
from tests.fakes.sweep import make_sweep

LABELS = ("Edema", "Mass")
SPACE: dict[str, Any] = {
    "optim.lr": {"loguniform": [1e-6, 1e-3]},
    "loss.pos_weight_power": {"uniform": [0.0, 1.0]},
    "data.oversample_min_count": {"choice": [0, 150]},
}


def rows_of(sweep: Sweep) -> list[Row]:
    limits = ranking.constraints(sweep.config.tune)
    ranked = ranking.rank(sweep.trial_records, sweep.config.tune, limits)
    return combinations.evaluated(combinations.combination_rows(sweep.trial_records, sweep.config, sweep.info, ranked))


def answers_of(sweep: Sweep) -> dict[str, Any]:
    found = sweep_answers.answers(rows_of(sweep), sweep.config, sweep.info)
    assert found is not None
    return found


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    """Forty trials; of the three hyperparameters only the learning rate has a large effect (`fakes.sweep._quality`)."""
    folder = tmp_path_factory.mktemp("runs") / "three"
    return make_sweep(folder, labels=LABELS, trials=40, failed=(), epochs=4, scheduler="none", space=SPACE)


def test_the_cells_are_the_effects_of_the_trials(sweep: Sweep) -> None:
    rows, found = rows_of(sweep), answers_of(sweep)
    rate = np.log10([row.hyperparameters["optim.lr"] for row in rows])
    weight = np.array([row.hyperparameters["loss.pos_weight_power"] for row in rows])
    count = np.array([row.hyperparameters["data.oversample_min_count"] for row in rows])
    level_TK = np.stack([np.clip(rate + 6, 0, 2.999) // 1, np.clip(3 * weight, 0, 2.999) // 1, count == 150], axis=1)
    names = ["val/auroc/mean", *(f"val/auroc/{label}" for label in LABELS)]
    value_TM = np.array([[row.values[name] for name in names] for row in rows])
    expected = effects(level_TK.astype(int), value_TM, lower=[False] * 3)
    p = iter(adjusted([one.p for of in expected for one in of if one is not None]))
    table = found["tables"][0]
    assert table["metric"] == "ROC AUC" and [row["label"] for row in table["rows"]] == ["mean ROC AUC", *LABELS]
    for row, of in zip(table["rows"], expected, strict=True):
        for cell, one, factor in zip(row["cells"], of, found["factors"], strict=True):
            assert one is not None and cell["best"] == factor["levels"][one.best]["text"]
            assert cell["difference"] == f"{one.difference:+.3f}" and cell["p"] == f"{next(p):.3f}"


def test_the_planted_effect_is_found_and_chance_is_called_chance(sweep: Sweep) -> None:
    rate, weight, count = answers_of(sweep)["sentences"]
    assert rate["title"] == "Learning rate" and rate["answer"] == "0.0001 to 0.001" and "sure (p 0.0" in rate["about"]
    assert (
        weight["answer"] == count["answer"] == "none is shown to be better" and "as chance alone may" in weight["about"]
    )


def test_levels_are_choices_or_thirds_of_the_range_with_their_trials(sweep: Sweep) -> None:
    rate, weight, count = answers_of(sweep)["factors"]
    assert [level["text"] for level in rate["levels"]] == ["1e-06 to 1e-05", "1e-05 to 0.0001", "0.0001 to 0.001"]
    assert [level["text"] for level in weight["levels"]] == ["0 to 0.333", "0.333 to 0.667", "0.667 to 1"]
    assert [level["text"] for level in count["levels"]] == ["0", "150"]
    assert all(sum(level["trials"] for level in factor["levels"]) == 40 for factor in (rate, weight, count))


def test_few_trials_give_no_answer(tmp_path: Path) -> None:
    small = make_sweep(tmp_path / "small", labels=LABELS, trials=7, failed=(), epochs=2, space=SPACE)
    found = answers_of(small)
    assert found["needed"] == 11 and found["tables"] == []
    page = sweep_page.write(small).read_text(encoding="utf-8")
    assert "Too few trials: 7 evaluated, and these answers need 11." in page


def test_a_label_with_few_positives_is_never_sure(sweep: Sweep) -> None:
    positives = {"val/positives/Edema": 6.0, "val/positives/Mass": 60.0}
    rows = [replace(row, values={**row.values, **positives}) for row in rows_of(sweep)]
    found = sweep_answers.answers(rows, sweep.config, sweep.info)
    assert found is not None
    mean, edema, mass = found["tables"][0]["rows"]
    assert (mean["positives"], edema["positives"], mass["positives"]) == (None, 6, 60)
    assert mean["cells"][0]["verdict"] == mass["cells"][0]["verdict"] == "sure"
    assert {cell["verdict"] for cell in edema["cells"]} == {"too few positives"}


def test_a_lower_objective_has_its_best_level_lowest(tmp_path: Path) -> None:
    lower = make_sweep(tmp_path / "loss", labels=LABELS, trials=30, failed=(), epochs=3, scheduler="none", space=SPACE,
                       metric="val/loss")  # fmt: skip
    table = answers_of(lower)["tables"][0]
    assert table["rows"][0]["cells"][0]["difference"].startswith("−") and table["rows"][1]["cells"][0][
        "difference"
    ].startswith("+")


def test_it_stands_first_on_the_page(sweep: Sweep) -> None:
    page = sweep_page.write(sweep).read_text(encoding="utf-8")
    assert page.index('id="answers"') < page.index('id="result"') and page.count("<section") > 3
    assert page.index("<section") == page.index('<section id="answers"')


def test_a_sweep_without_levels_has_no_answers(tmp_path: Path) -> None:
    one = make_sweep(
        tmp_path / "one",
        labels=LABELS,
        trials=3,
        failed=(),
        epochs=2,
        base=False,
        space={"optim.lr": {"choice": [1e-3]}},
    )
    assert sweep_answers.answers(rows_of(one), one.config, one.info) is None
    assert sweep_answers.answers([], one.config, one.info) is None
    assert 'id="answers"' not in sweep_page.write(one).read_text(encoding="utf-8")

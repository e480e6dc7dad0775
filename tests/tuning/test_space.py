"""Search spaces: parsing and validation before the first trial, sampling, and applying a combination to a config."""

import math
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from cxr_ray import config as cfg
from cxr_ray.errors import UserError
from cxr_ray.tuning import space
from cxr_ray.tuning.space import Dimension, Space

LABELS = ("Edema", "Mass", "No.Finding")
BASE = cfg.Config()


def tune(given: dict[str, Any], **more: Any) -> cfg.Tune:
    return cfg.Tune(space=given, **more)


def parse(given: dict[str, Any], **more: Any) -> Space:
    return space.parse(tune(given, **more), BASE, LABELS)


def parse_error(given: dict[str, Any], **more: Any) -> str:
    with pytest.raises(UserError) as error:
        parse(given, **more)
    return str(error.value)


# Parsing


def test_every_kind_is_parsed_nested_or_dotted() -> None:
    dotted = {
        "optim.lr": {"loguniform": [1e-6, 1e-3]},
        "loss.pos_weight_power": {"uniform": [0, 1]},
        "train.epochs": {"integer": [2, 8]},
        "data.uncertain.Edema": {"choice": ["zeros", "ones"]},
        "model.options.width": {"choice": [1, 2]},
    }
    nested = {
        "optim": {"lr": {"loguniform": [1e-6, 1e-3]}},
        "loss": {"pos_weight_power": {"uniform": [0, 1]}},
        "train": {"epochs": {"integer": [2, 8]}},
        "data": {"uncertain": {"Edema": {"choice": ["zeros", "ones"]}}},
        "model": {"options": {"width": {"choice": [1, 2]}}},
    }
    assert space.flatten(dotted) == dotted == space.flatten(nested)
    found = parse(nested).dimensions
    assert [(d.name, d.kind, d.values) for d in found] == [
        ("optim.lr", "loguniform", (1e-6, 1e-3)),
        ("loss.pos_weight_power", "uniform", (0.0, 1.0)),
        ("train.epochs", "integer", (2, 8)),
        ("data.uncertain.Edema", "choice", ("zeros", "ones")),
        ("model.options.width", "choice", (1, 2)),
    ]
    assert all(isinstance(v, int) for v in found[2].values)


def test_numbers_that_yaml_reads_as_text_become_numbers() -> None:
    given = yaml.safe_load("{optim.lr: {loguniform: [1e-6, 1e-3]}, optim.weight_decay: {choice: [0, 1e-4]}}")
    assert given["optim.lr"]["loguniform"] == ["1e-6", "1e-3"]  # the reason
    found = parse(given).dimensions
    assert found[0].values == (1e-6, 1e-3) and found[1].values == (0, 1e-4)


def test_text_choices_stay_text() -> None:
    (found,) = parse({"model.name": {"choice": ["resnet18", "densenet121", "resnet18"]}}).dimensions
    assert found.values == ("resnet18", "densenet121")  # without duplicates


def test_choices_may_be_lists_and_null() -> None:
    found = parse({"data.image_size": {"choice": [[64, 64], [96, 96], None]}}).dimensions[0]
    assert found.values == ([64, 64], [96, 96], None)
    assert found.sample(np.random.default_rng(0)) in found.values


# Rejected before the first trial


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, "tune.space is empty"),
        ({"optim.ler": {"uniform": [0, 1]}}, "unknown setting 'optim.ler' in tune.space; did you mean 'optim.lr'?"),
        ({"lr": {"uniform": [0, 1]}}, "unknown setting 'lr' in tune.space; did you mean 'optim.lr'?"),
        ({"optim": {"choice": [1]}}, "optim in tune.space is a section, not a setting; name one of its settings, such as optim."),
        ({"optim.lr": {"lognormal": [0, 1]}}, "unknown distribution 'lognormal' in tune.space.optim.lr"),
        ({"optim.lr": {"loguniformm": [0, 1]}}, "did you mean 'loguniform'?"),
        ({"optim.lr": [1e-4, 1e-3]}, "tune.space.optim.lr: write one of"),
        ({"optim.lr": {"uniform": [0, 1], "choice": [1]}}, "tune.space.optim.lr: write one of"),
        ({"optim.lr": {"uniform": 1}}, "tune.space.optim.lr.uniform: give a list"),
        ({"optim.lr": {"choice": []}}, "tune.space.optim.lr.choice: give a list"),
        ({"optim.lr": {"choice": "ones"}}, "tune.space.optim.lr.choice: give a list"),
        ({"optim.lr": {"uniform": [1, 2, 3]}}, "give two numbers, [lowest, highest]"),
        ({"optim.lr": {"uniform": ["a", "b"]}}, "give two numbers, [lowest, highest]"),
        ({"optim.lr": {"uniform": [False, True]}}, "give two numbers, [lowest, highest]"),
        ({"optim.lr": {"uniform": [1e-3, 1e-6]}}, "0.001 is not below 1e-06; give [lowest, highest]"),
        ({"optim.lr": {"uniform": [0.1, 0.1]}}, "0.1 is not below 0.1"),
        ({"optim.lr": {"loguniform": [0, 1]}}, "0 has no logarithm; the lowest value must be above 0"),
        ({"train.epochs": {"integer": [1.5, 3]}}, "give integers"),
        ({"loss.pos_weight_power": {"uniform": [0, 9]}}, "tune.space.loss.pos_weight_power: loss.pos_weight_power"),
        ({"loss.name": {"choice": ["bce", 3]}}, "tune.space.loss.name: loss.name"),
        ({"data.uncertain.Edema": {"choice": ["zeros", "onse"]}}, "tune.space.data.uncertain.Edema"),
        ({"data.uncertain.Edma": {"choice": ["zeros"]}}, "unknown label 'Edma' in tune.space.data.uncertain.Edma; did you mean 'Edema'?"),
    ],
)  # fmt: skip
def test_what_the_config_would_reject_is_rejected_at_once(given: dict[str, Any], expected: str) -> None:
    assert expected in parse_error(given)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("data.labels", "evaluated on the same rows and the same truth"),
        ("data.filters", "evaluated on the same rows"),
        ("data.blank", "evaluated on the same rows"),
        ("data.eval_uncertain", "evaluated on the same rows"),
        ("data.limit", "evaluated on the same rows"),
        ("data.split.seed", "evaluated on the same rows"),
        ("data.split.val", "evaluated on the same rows"),
        ("data.split.fold", "evaluated on the same rows"),
        ("report.thresholds", "it configures the report, not the training"),
        ("tune.trials", "it configures the sweep itself"),
        ("train.monitor", "all trials are run and evaluated alike"),
        ("train.workers", "all trials are run and evaluated alike"),
        ("train.select", "all trials are run and evaluated alike"),
        ("name", "it does not change the training"),
        ("output", "it does not change the training"),
    ],
)
def test_settings_that_must_not_differ_between_trials(name: str, why: str) -> None:
    assert why in parse_error({name: {"choice": [0, 1]}})
    with pytest.raises(UserError, match=rf"{name} is not allowed in tune\.combinations"):
        space.parse(tune({}, search="list", combinations=[{name: 1}]), BASE, LABELS)


def test_every_other_setting_is_searchable() -> None:
    """Each setting is either rejected by name or searchable; all of model, loss, optim and augment are searchable."""
    rejected = set()
    for name, _ in cfg.settings(cfg.Config):
        try:
            space.check_searchable(name, where="tune.space")
        except UserError:
            rejected.add(name)
    assert not any(k.startswith(("model.", "loss.", "optim.", "augment.")) for k in rejected)
    assert {k for k, _ in cfg.settings(cfg.Config) if k.startswith("data.")} - rejected == {
        "data.uncertain", "data.oversample_min_count", "data.image_size", "data.normalize",
    }  # fmt: skip
    assert "seed" not in rejected and {k for k, _ in cfg.settings(cfg.Config) if k.startswith("tune.")} <= rejected


def test_a_list_of_combinations_is_checked_one_by_one() -> None:
    listed = [{"optim.lr": "1e-4"}, {"optim.lr": -1.0}]
    assert space.parse(tune({}, search="list", combinations=listed[:1]), BASE, LABELS).dimensions == ()
    with pytest.raises(UserError, match=r"tune\.combinations\[1\]: optim\.lr"):
        space.parse(tune({}, search="list", combinations=listed), BASE, LABELS)
    with pytest.raises(UserError, match=r"tune\.combinations is empty"):
        space.parse(tune({}, search="list"), BASE, LABELS)


def test_a_combination_that_the_config_rejects_names_its_trial() -> None:
    with pytest.raises(UserError, match=r"trial 0003: optim\.lr"):
        space.apply(BASE, {"model.name": "lenet", "optim.lr": -1}, LABELS, where="trial 0003")


# Sampling

KINDS = [
    Dimension("a", "uniform", (-1.0, 2.0)),
    Dimension("b", "loguniform", (1e-6, 1e-3)),
    Dimension("c", "integer", (2, 5)),
    Dimension("d", "choice", ("x", [1], None)),
]


@given(seed=st.integers(0, 2**32 - 1), number=st.integers(0, 10_000))
def test_samples_are_within_bounds_and_depend_only_on_seed_and_number(seed: int, number: int) -> None:
    searched = Space(tuple(KINDS))
    found = searched.sample(number, seed=seed)
    assert list(found) == ["a", "b", "c", "d"]
    assert -1 <= found["a"] <= 2 and 1e-6 <= found["b"] <= 1e-3 and found["d"] in ("x", [1], None)
    assert found["c"] in (2, 3, 4, 5) and isinstance(found["c"], int)
    for other in range(3):  # other samples change nothing
        searched.sample(other, seed=seed)
    assert searched.sample(number, seed=seed) == found


def test_samples_are_distributed_as_declared() -> None:
    rng = np.random.default_rng(0)
    sample = {d.name: [d.sample(rng) for _ in range(4000)] for d in KINDS}
    assert np.mean(sample["a"]) == pytest.approx(0.5, abs=0.06)
    assert np.std(sample["a"]) == pytest.approx(3 / 12**0.5, abs=0.03)
    logs = np.log10(sample["b"])
    assert np.mean(logs) == pytest.approx(-4.5, abs=0.06) and np.std(logs) == pytest.approx(3 / 12**0.5, abs=0.03)
    assert {v: sample["c"].count(v) / 4000 for v in (2, 3, 4, 5)} == pytest.approx(
        dict.fromkeys((2, 3, 4, 5), 0.25), abs=0.03
    )
    assert sample["d"].count("x") / 4000 == pytest.approx(1 / 3, abs=0.03)


def test_trials_and_seeds_give_different_samples() -> None:
    searched = Space((Dimension("a", "uniform", (0.0, 1.0)),))
    found = {searched.sample(n, seed=s)["a"] for n in range(50) for s in range(4)}
    assert len(found) == 200


@given(st.lists(st.integers(1, 4), min_size=1, max_size=4))
def test_a_grid_is_every_combination_once_and_the_last_hyperparameter_changes_fastest(sizes: list[int]) -> None:
    searched = Space(tuple(Dimension(f"k{i}", "choice", tuple(range(n))) for i, n in enumerate(sizes)))
    found = [tuple(one.values()) for one in searched.grid()]
    assert len(found) == math.prod(sizes) == len(set(found)) and found == sorted(found)
    assert all(list(one) == [f"k{i}" for i in range(len(sizes))] for one in searched.grid())


def test_a_grid_takes_no_interval() -> None:
    with pytest.raises(UserError, match=r"tune\.space\.b: a grid takes choices, not loguniform"):
        Space(tuple(KINDS[1:2])).grid()


# Applying a combination


def test_a_combination_changes_its_settings_and_nothing_else() -> None:
    combination = {
        "optim.lr": 0.01,
        "loss.pos_weight_power": 0.5,
        "model.name": "lenet",
        "data.oversample_min_count": 50,
        "seed": 3,
    }
    made = space.apply(BASE, combination, LABELS)
    before, after = (dict(_leaves(c.model_dump())) for c in (BASE, made))
    changed = {k: v for k, v in after.items() if before.get(k) != v}
    assert changed == combination
    assert space.apply(BASE, {}, LABELS) == BASE


def _leaves(values: dict[str, Any], prefix: str = "") -> Any:
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def test_the_policy_of_a_label_does_not_change_others() -> None:
    one_for_all = cfg.validate({"data": {"uncertain": "ones"}})
    found = space.apply(one_for_all, {"data.uncertain.Edema": "zeros"}, LABELS)
    assert found.data.uncertain == {"Edema": "zeros", "Mass": "ones", "No.Finding": "ones"}
    by_label = cfg.validate({"data": {"uncertain": {"Mass": "ignore"}}})
    found = space.apply(by_label, {"data.uncertain.Edema": "ones", "data.uncertain.No.Finding": "ignore"}, LABELS)
    assert found.data.uncertain == {"Mass": "ignore", "Edema": "ones", "No.Finding": "ignore"}
    assert by_label.data.uncertain == {"Mass": "ignore"}  # the base is not changed


def test_options_of_a_model_are_set_by_name() -> None:
    base = cfg.validate({"model": {"name": "lenet", "options": {"width": 1}}})
    found = space.apply(base, {"model.options.depth": 3}, LABELS)
    assert found.model.options == {"width": 1, "depth": 3}

"""Search spaces: what is checked before the first trial, what is drawn, and that a combination changes nothing else."""

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


def tune(said: dict[str, Any], **more: Any) -> cfg.Tune:
    return cfg.Tune(space=said, **more)


def parsed(said: dict[str, Any], **more: Any) -> Space:
    return space.parse(tune(said, **more), BASE, LABELS)


def refusal(said: dict[str, Any], **more: Any) -> str:
    with pytest.raises(UserError) as error:
        parsed(said, **more)
    return str(error.value)


# What is read


def test_every_kind_is_read_nested_or_dotted() -> None:
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
    assert space.flat(dotted) == dotted == space.flat(nested)
    found = parsed(nested).dimensions
    assert [(d.hyperparameter, d.kind, d.values) for d in found] == [
        ("optim.lr", "loguniform", (1e-6, 1e-3)),
        ("loss.pos_weight_power", "uniform", (0.0, 1.0)),
        ("train.epochs", "integer", (2, 8)),
        ("data.uncertain.Edema", "choice", ("zeros", "ones")),
        ("model.options.width", "choice", (1, 2)),
    ]
    assert all(isinstance(v, int) for v in found[2].values)


def test_numbers_that_yaml_leaves_as_text_are_numbers() -> None:
    said = yaml.safe_load("{optim.lr: {loguniform: [1e-6, 1e-3]}, optim.weight_decay: {choice: [0, 1e-4]}}")
    assert said["optim.lr"]["loguniform"] == ["1e-6", "1e-3"]  # the reason
    found = parsed(said).dimensions
    assert found[0].values == (1e-6, 1e-3) and found[1].values == (0, 1e-4)


def test_words_among_choices_stay_words() -> None:
    (found,) = parsed({"model.name": {"choice": ["resnet18", "densenet121", "resnet18"]}}).dimensions
    assert found.values == ("resnet18", "densenet121")  # and none twice


def test_choices_may_be_lists_and_null() -> None:
    found = parsed({"data.image_size": {"choice": [[64, 64], [96, 96], None]}}).dimensions[0]
    assert found.values == ([64, 64], [96, 96], None)
    assert found.draw(np.random.default_rng(0)) in found.values


# What is refused, before the first trial


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ({}, "tune.space is empty"),
        ({"optim.ler": {"uniform": [0, 1]}}, "unknown knob 'optim.ler' in tune.space; did you mean 'optim.lr'?"),
        ({"lr": {"uniform": [0, 1]}}, "unknown knob 'lr' in tune.space; did you mean 'optim.lr'?"),
        ({"optim": {"choice": [1]}}, "optim in tune.space is a section, not a knob; name one of its knobs, such as optim."),
        ({"optim.lr": {"lognormal": [0, 1]}}, "unknown kind of interval 'lognormal' in tune.space.optim.lr"),
        ({"optim.lr": {"loguniformm": [0, 1]}}, "did you mean 'loguniform'?"),
        ({"optim.lr": [1e-4, 1e-3]}, "tune.space.optim.lr: say one of"),
        ({"optim.lr": {"uniform": [0, 1], "choice": [1]}}, "tune.space.optim.lr: say one of"),
        ({"optim.lr": {"uniform": 1}}, "tune.space.optim.lr.uniform: give a list"),
        ({"optim.lr": {"choice": []}}, "tune.space.optim.lr.choice: give a list"),
        ({"optim.lr": {"choice": "ones"}}, "tune.space.optim.lr.choice: give a list"),
        ({"optim.lr": {"uniform": [1, 2, 3]}}, "give two numbers, [lowest, highest]"),
        ({"optim.lr": {"uniform": ["a", "b"]}}, "give two numbers, [lowest, highest]"),
        ({"optim.lr": {"uniform": [False, True]}}, "give two numbers, [lowest, highest]"),
        ({"optim.lr": {"uniform": [1e-3, 1e-6]}}, "0.001 is not below 1e-06; give [lowest, highest]"),
        ({"optim.lr": {"uniform": [0.1, 0.1]}}, "0.1 is not below 0.1"),
        ({"optim.lr": {"loguniform": [0, 1]}}, "0 has no logarithm; the lowest must be above 0"),
        ({"train.epochs": {"integer": [1.5, 3]}}, "give whole numbers"),
        ({"loss.pos_weight_power": {"uniform": [0, 9]}}, "tune.space.loss.pos_weight_power: loss.pos_weight_power"),
        ({"loss.name": {"choice": ["bce", 3]}}, "tune.space.loss.name: loss.name"),
        ({"data.uncertain.Edema": {"choice": ["zeros", "onse"]}}, "tune.space.data.uncertain.Edema"),
        ({"data.uncertain.Edma": {"choice": ["zeros"]}}, "unknown label 'Edma' in tune.space.data.uncertain.Edma; did you mean 'Edema'?"),
    ],
)  # fmt: skip
def test_what_the_config_would_refuse_is_refused_now(said: dict[str, Any], why: str) -> None:
    assert why in refusal(said)


@pytest.mark.parametrize(
    ("hyperparameter", "why"),
    [
        ("data.labels", "judged on the same rows by the same truth"),
        ("data.filters", "judged on the same rows"),
        ("data.blank", "judged on the same rows"),
        ("data.eval_uncertain", "judged on the same rows"),
        ("data.limit", "judged on the same rows"),
        ("data.split.seed", "judged on the same rows"),
        ("data.split.val", "judged on the same rows"),
        ("data.split.fold", "judged on the same rows"),
        ("report.thresholds", "how a run is shown"),
        ("tune.trials", "it is the sweep itself"),
        ("train.monitor", "all trials run and are judged alike"),
        ("train.workers", "all trials run and are judged alike"),
        ("train.select", "all trials run and are judged alike"),
        ("name", "it does not change a training"),
        ("output", "it does not change a training"),
    ],
)
def test_knobs_that_may_not_differ_between_trials(hyperparameter: str, why: str) -> None:
    assert why in refusal({hyperparameter: {"choice": [0, 1]}})
    with pytest.raises(UserError, match=rf"{hyperparameter} may not stand in tune\.combinations"):
        space.parse(tune({}, search="list", combinations=[{hyperparameter: 1}]), BASE, LABELS)


def test_every_other_knob_may() -> None:
    """Each knob of the config is either refused by name or open; those of model, loss, optim and augment are all open."""
    shut = set()
    for hyperparameter, _ in cfg.settings(cfg.Config):
        try:
            space.check_open(hyperparameter, where="tune.space")
        except UserError:
            shut.add(hyperparameter)
    assert not any(k.startswith(("model.", "loss.", "optim.", "augment.")) for k in shut)
    assert {k for k, _ in cfg.settings(cfg.Config) if k.startswith("data.")} - shut == {
        "data.uncertain", "data.oversample_min_count", "data.image_size", "data.normalize",
    }  # fmt: skip
    assert "seed" not in shut and {k for k, _ in cfg.settings(cfg.Config) if k.startswith("tune.")} <= shut


def test_a_list_of_combinations_is_checked_one_by_one() -> None:
    listed = [{"optim.lr": "1e-4"}, {"optim.lr": -1.0}]
    assert space.parse(tune({}, search="list", combinations=listed[:1]), BASE, LABELS).dimensions == ()
    with pytest.raises(UserError, match=r"tune\.combinations\[1\]: optim\.lr"):
        space.parse(tune({}, search="list", combinations=listed), BASE, LABELS)
    with pytest.raises(UserError, match=r"tune\.combinations is empty"):
        space.parse(tune({}, search="list"), BASE, LABELS)


def test_a_combination_that_the_config_refuses_names_its_trial() -> None:
    with pytest.raises(UserError, match=r"trial 0003: optim\.lr"):
        space.apply(BASE, {"model.name": "lenet", "optim.lr": -1}, LABELS, where="trial 0003")


# What is drawn

KINDS = [
    Dimension("a", "uniform", (-1.0, 2.0)),
    Dimension("b", "loguniform", (1e-6, 1e-3)),
    Dimension("c", "integer", (2, 5)),
    Dimension("d", "choice", ("x", [1], None)),
]


@given(seed=st.integers(0, 2**32 - 1), number=st.integers(0, 10_000))
def test_draws_lie_within_and_hang_on_seed_and_number_alone(seed: int, number: int) -> None:
    searched = Space(tuple(KINDS))
    found = searched.sample(number, seed=seed)
    assert list(found) == ["a", "b", "c", "d"]
    assert -1 <= found["a"] <= 2 and 1e-6 <= found["b"] <= 1e-3 and found["d"] in ("x", [1], None)
    assert found["c"] in (2, 3, 4, 5) and isinstance(found["c"], int)
    for other in range(3):  # what else was drawn changes nothing
        searched.sample(other, seed=seed)
    assert searched.sample(number, seed=seed) == found


def test_draws_are_spread_as_said() -> None:
    rng = np.random.default_rng(0)
    sample = {d.hyperparameter: [d.draw(rng) for _ in range(4000)] for d in KINDS}
    assert np.mean(sample["a"]) == pytest.approx(0.5, abs=0.06) and np.std(sample["a"]) == pytest.approx(
        3 / 12**0.5, abs=0.03
    )
    logs = np.log10(sample["b"])
    assert np.mean(logs) == pytest.approx(-4.5, abs=0.06) and np.std(logs) == pytest.approx(3 / 12**0.5, abs=0.03)
    assert {v: sample["c"].count(v) / 4000 for v in (2, 3, 4, 5)} == pytest.approx(
        dict.fromkeys((2, 3, 4, 5), 0.25), abs=0.03
    )
    assert sample["d"].count("x") / 4000 == pytest.approx(1 / 3, abs=0.03)


def test_trials_and_seeds_draw_apart() -> None:
    searched = Space((Dimension("a", "uniform", (0.0, 1.0)),))
    found = {searched.sample(n, seed=s)["a"] for n in range(50) for s in range(4)}
    assert len(found) == 200


@given(st.lists(st.integers(1, 4), min_size=1, max_size=4))
def test_a_grid_is_every_combination_once_the_last_knob_fastest(sizes: list[int]) -> None:
    searched = Space(tuple(Dimension(f"k{i}", "choice", tuple(range(n))) for i, n in enumerate(sizes)))
    found = [tuple(one.values()) for one in searched.grid()]
    assert len(found) == math.prod(sizes) == len(set(found)) and found == sorted(found)
    assert all(list(one) == [f"k{i}" for i in range(len(sizes))] for one in searched.grid())


def test_a_grid_takes_no_interval() -> None:
    with pytest.raises(UserError, match=r"tune\.space\.b: a grid takes choices, not loguniform"):
        Space(tuple(KINDS[1:2])).grid()


# A combination on a config


def test_a_combination_changes_its_knobs_and_nothing_else() -> None:
    hyperparameters = {
        "optim.lr": 0.01,
        "loss.pos_weight_power": 0.5,
        "model.name": "lenet",
        "data.oversample_min_count": 50,
        "seed": 3,
    }
    made = space.apply(BASE, hyperparameters, LABELS)
    before, after = (dict(_leaves(c.model_dump())) for c in (BASE, made))
    changed = {k: v for k, v in after.items() if before.get(k) != v}
    assert changed == hyperparameters
    assert space.apply(BASE, {}, LABELS) == BASE


def _leaves(values: dict[str, Any], prefix: str = "") -> Any:
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def test_a_labels_policy_leaves_the_others_theirs() -> None:
    whole = cfg.validate({"data": {"uncertain": "ones"}})
    found = space.apply(whole, {"data.uncertain.Edema": "zeros"}, LABELS)
    assert found.data.uncertain == {"Edema": "zeros", "Mass": "ones", "No.Finding": "ones"}
    some = cfg.validate({"data": {"uncertain": {"Mass": "ignore"}}})
    found = space.apply(some, {"data.uncertain.Edema": "ones", "data.uncertain.No.Finding": "ignore"}, LABELS)
    assert found.data.uncertain == {"Mass": "ignore", "Edema": "ones", "No.Finding": "ignore"}
    assert some.data.uncertain == {"Mass": "ignore"}  # the base is what it was


def test_options_of_a_model_are_set_by_name() -> None:
    base = cfg.validate({"model": {"name": "lenet", "options": {"width": 1}}})
    found = space.apply(base, {"model.options.depth": 3}, LABELS)
    assert found.model.options == {"width": 1, "depth": 3}

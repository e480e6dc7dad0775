"""What a report states in sentences, and when: each one holds for the run, the part and the settings that it is printed for."""

from collections.abc import Mapping, Sequence
from typing import Any

from cxr_ray import config as cfg
from cxr_ray.errors import UserError
from cxr_ray.evaluation import value_intervals
from cxr_ray.evaluation.analysis import has_enough_cases
from cxr_ray.metrics import MEAN
from cxr_ray.metrics.subgroups import MIN_CASES
from cxr_ray.metrics.titles import heading
from cxr_ray.report.comparison_page import PRIMARY
from cxr_ray.report.headline import by_metric
from cxr_ray.report.render import interval, number, thousands
from cxr_ray.runs import Run, is_selected_on_val, selected_text

UNTRAINED = "untrained"
BASELINES = {
    "thumbnail": "the 16 × 16 thumbnail",
    "border": "the thumbnail's border",
    UNTRAINED: "the untrained model",
}
GRAY_VALUES = {"thumbnail": 256, "border": 60}

FEW = MIN_CASES
"""With fewer positives or negatives a label's metrics are called unreliable, and nothing is concluded from them."""
STRONG = 0.65
"""A border whose ROC AUC of a single label is lower is not reported."""

POLICIES = {
    "zeros": "counted as negative",
    "ones": "counted as positive",
    "ignore": "masked as unknown",
    "smooth": "sampled from 0.55 to 0.85",
    "smooth_zeros": "sampled from 0 to 0.3",
}

FROM_REPORTS = "They were extracted from radiology reports by software, and some are wrong."
FROM_FOLDERS = "Each image has the class of the folder that it was in."
FROM_TABLE = "They come from a table that the user gave."
ORIGINS = {
    "chexpert": "They were extracted from radiology reports by software, and some are wrong; the images of the dataset's own "
    "valid.csv were read by radiologists.",
    "mimic_cxr": FROM_REPORTS,
    "nih": FROM_REPORTS,
    "padchest": "They were extracted from radiology reports, a part by hand and the rest by software, and some are wrong.",
    "vindr": "Radiologists read the images; readers may disagree.",
    "covid_chestxray": "They were collected from publications and websites.",
    "covid_radiography": FROM_FOLDERS,
    "image_folder": FROM_FOLDERS,
    "table": FROM_TABLE,
    "dicom_folder": FROM_TABLE,
    "phantom": "The images are drawn, so the truth is known.",
}
"""Where the labels of a source come from."""


def unit(evaluation: Mapping[str, Any]) -> str:
    """What a row of the evaluation is: images, or studies."""
    return "studies" if str(evaluation.get("by", "image")).startswith("study") else "images"


def has_intervals(evaluation: Mapping[str, Any]) -> bool:
    """Whether intervals were computed: resamples were asked for, and there is more than one unit to resample."""
    return bool(evaluation["interval"]["resamples"]) and evaluation["interval"]["groups"] > 1


def means_text(evaluation: Mapping[str, Any]) -> str:
    """What the intervals of means do not cover: labels that some resamples have no positive or no negative of."""
    return value_intervals.means_text(
        evaluation["interval"].get("left_out", ())
    )  # files of earlier versions have no such list


def standing(run: Run, part: str, evaluation: Mapping[str, Any]) -> str:
    """What was evaluated, and which part of the training these rows had."""
    people = f" of {thousands(evaluation['patients'])} patients" if evaluation["patients"] else ""
    on = f"{thousands(evaluation['rows'])} {unit(evaluation)}{people}"
    return " ".join(filter(None, (_of_part(run, part, evaluation, on), _of_epoch(run, evaluation.get("epoch")))))


def _of_part(run: Run, part: str, evaluation: Mapping[str, Any], on: str) -> str:
    if external := evaluation.get("external"):
        chosen = [
            *(["thresholds"] if evaluation["operating"]["chosen_on_rows"] else []),
            *(["calibration"] if (evaluation.get("calibration") or {}).get("fitted") else []),
        ]
        own = (
            f" Its {' and '.join(chosen)} {'is' if chosen == ['calibration'] else 'are'} from the run's own val."
            if chosen
            else ""
        )
        return f"Evaluated on external data: the store {external['store']} of {external['source']}, {on}.{own}"
    if part == "test":
        count = run.info["test_looks"]
        times = "once" if count == 1 else f"{count} times"
        counted = f" The test part has been evaluated {times}." if count else ""
        return f"Evaluated on the test part, {on}, which this run used neither to fit nor to select the model.{counted}"
    if part == "train":
        if evaluation.get("epoch") == 0:
            return f"Evaluated on the train part, {on}, before the model was fitted to them."
        fitted = (
            "its members were fitted to, not each of them to all"
            if run.info.get("members")
            else "the model was fitted to"
        )
        return f"Evaluated on the train part, {on}: those that {fitted}. This says nothing about others."
    if selected := selected_on_val(run, evaluation):
        listed = selected[0] if len(selected) == 1 else f"{', '.join(selected[:-1])} and {selected[-1]}"
        return f"Evaluated on val, {on}. Val selected {listed}, so these metrics are optimistic; they are not a test."
    last = "The last epoch was selected, so val" if evaluation.get("epoch") is None else "Val"
    return f"Evaluated on val, {on}. {last} selected nothing in this run."


def _of_epoch(run: Run, epoch: int | None) -> str:
    if epoch is None:
        return ""
    if epoch == 0:
        return "The model is the untrained one (epoch 0)."
    same = (run.info.get("kept") or {}).get("epoch") == epoch
    return f"The model is that of epoch {epoch}, which is {'' if same else 'not '}the selected one."


def selected_on_val(run: Run, evaluation: Mapping[str, Any]) -> list[str]:
    """What was selected on val for the model and the thresholds of this evaluation."""
    trained = trainings(run)
    several = "s" if len(trained) > 1 else ""
    out = []
    if evaluation.get("epoch") is None and any(is_selected_on_val(info, config.train) for info, config in trained):
        out.append(f"the epoch{several}")
    if evaluation["operating"]["chosen_on_rows"]:
        out.append("the thresholds")
    if evaluation.get("epoch") != 0:
        if any(config.optim.schedule == "plateau" for _, config in trained):
            out.append(f"the learning rate{several}")
        if any(info.get("ended") == "patience" for info, _ in trained):
            out.append(f"the end{several} of the training{several}")
        if any(info.get("sweep") for info, _ in trained):
            out.append("the hyperparameters")
    return out


def trainings(run: Run) -> list[tuple[dict[str, Any], cfg.Config]]:
    """run.json and config of each training: of the run, or of the members of an ensemble as far as they are still there."""
    try:
        members = run.members
    except UserError:
        members = []
    return [(one.info, one.config) for one in members or [run]]


def cautions(evaluation: Mapping[str, Any], info: Mapping[str, Any], part: str) -> list[str]:
    """Warnings: of the data, of this evaluation, and of the training."""
    out = (
        [*(evaluation.get("external") or {}).get("notes", [])]
        if evaluation.get("external")
        else [*info["store"].get("notes", [])]
    )
    out += evaluation.get("notes", [])
    counts = [v for v in evaluation["values"] if v["metric"] == "positives" and v["rows"]]
    for kind, of in (("positives", lambda v: v["positives"]), ("negatives", lambda v: v["rows"] - v["positives"])):
        few = [(v["label"], of(v)) for v in counts if of(v) < FEW]
        if few:
            listed = ", ".join(f"{label} ({n or 'none'})" for label, n in few)
            out.append(f"Fewer than {FEW} {kind} in {part}: {listed}. Their metrics are unreliable.")
    by = evaluation["interval"]
    if by["asked"] == "patient" and by["by"] == "image" and has_intervals(evaluation):
        out.append(
            f"The patients of these {unit(evaluation)} are unknown, so intervals treat {unit(evaluation)} as independent and may be too narrow."
        )
    return [*out, *info.get("warnings", [])]


def verdict(evaluation: Mapping[str, Any]) -> list[str]:
    """How the model compares with its strongest trivial baseline, in words that the interval of the difference supports."""
    metric, label = PRIMARY[evaluation["task"]]
    name_of_metric = heading(metric, label, evaluation["task"])
    if not name_of_metric.startswith(("ROC", "F1")):
        name_of_metric = name_of_metric[0].lower() + name_of_metric[1:]
    gaps = {
        name: gap
        for name, rows in evaluation["differences"].items()
        for gap in rows
        if name != UNTRAINED and (gap["metric"], gap["label"]) == (metric, label)
    }
    if not gaps:
        return []
    strongest = min(gaps, key=lambda name: gaps[name]["value"])
    gap, against = gaps[strongest], BASELINES.get(strongest, strongest)
    distance = (
        f"is {number(abs(gap['value']))} {'above' if gap['value'] > 0 else 'below'}" if gap["value"] else "equals"
    )
    line = f"Its {name_of_metric} {distance} that of the strongest trivial baseline ({against}"
    between = f"; difference {interval(gap)})" if interval(gap) else ")"
    others = [BASELINES.get(name, name) for name, one in gaps.items() if one.get("low", 0.0) <= 0.0]
    if gap.get("low") is None:
        out = [f"{line}); no interval was computed, so chance is not excluded."]
    elif gap["low"] > 0 and others:
        out = [f"{line}{between}, which chance does not explain; for {', '.join(others)} it may."]
    elif gap["low"] > 0 and "thumbnail" in gaps:
        out = [f"{line}{between}: the model uses more of the image than a thumbnail shows."]
    elif gap["low"] > 0:
        out = [f"{line}{between}, which chance does not explain."]
    elif gap["high"] < 0:
        values = f" on {GRAY_VALUES[strongest]} gray values" if strongest in GRAY_VALUES else ""
        out = [f"{line}{between}: it is worse than a regression{values}. Do not use it."]
    else:
        chance = ", which chance alone may explain" if gap["value"] else ""
        out = [f"{line}{between}{chance}: it is not shown to outperform a trivial rule."]
    return [*out, *_border(evaluation)]


def _border(evaluation: Mapping[str, Any]) -> list[str]:
    """A sentence if the border alone predicts: on average if every label has enough cases, else a label that has."""
    border = by_metric(evaluation["rivals"].get("border", []), evaluation["labels"])
    values = by_metric(evaluation["values"], evaluation["labels"])
    defined = [k for k in evaluation["labels"] if ("auroc", k) in border]
    enough = [k for k in defined if has_enough_cases(values, k)]
    if not enough:
        return []

    def shown(label: str, least: float) -> bool:
        row = border.get(("auroc", label))
        # 1.0 has no interval
        return row is not None and row["value"] >= least and (row["value"] == 1.0 or row.get("low", 0.0) > 0.5)

    if len(enough) == len(defined):
        found = MEAN if shown(MEAN, 0.5) else None
    else:
        found = max((k for k in enough if shown(k, STRONG)), key=lambda k: border["auroc", k]["value"], default=None)
    if found is None:
        return []
    of = "" if found == MEAN else f" for {found}"
    return [
        f"The image border alone, with hardly any lung in it, reaches a ROC AUC of {number(border['auroc', found]['value'])}{of}: "
        "something other than the lungs (source, view, collimation, burned-in text) is associated with the labels here."
    ]


def baselines_text(evaluation: Mapping[str, Any], train_rows: int, most_rows: int) -> str:
    """What the baselines are, and how they decide. `most_rows` of train are used to fit them."""
    fitted = "the same train images" if train_rows <= most_rows else f"{thousands(most_rows)} of the train images"
    text = f"Logistic regressions fitted on {fitted} and evaluated on the same {unit(evaluation)}. A useful model must outperform them."
    if UNTRAINED in evaluation["rivals"]:
        text += " The untrained model shows what training added."
    if evaluation["operating"]["chosen_on_rows"] and evaluation["task"] != "multiclass":
        text += " Baselines decide at 0.5: the rule chose thresholds for the model alone."
    return text


def split_text(config: cfg.Config, parts: Mapping[str, Mapping[str, Any]]) -> str:
    """How the parts were made."""
    split = config.data.split
    shares = {"test": split.test, "val": split.val if split.folds is None else 1 / split.folds}
    has_patients = any(of["patients"] for of in parts.values())
    counted = any(of["labels"] for of in parts.values())  # by run.json, of all but the oldest runs
    out = []
    if any(share not in ("official", 0.0) for share in shares.values()):
        unknown = split.by == "patient" and counted and not has_patients
        out.append(f"by {'image, since no patient is known' if unknown else split.by}, seed {split.seed}")
    out += [f"official {part} list" for part, share in shares.items() if share == "official"]
    if split.folds is not None:
        out.append(f"fold {split.fold + 1} of {split.folds} is val")
    return ", ".join(out) or "all rows are train"


ENDED = {"patience": "ended by train.patience", "max_time": "ended by train.max_time", "stop": "stopped"}


def epochs_text(info: Mapping[str, Any], config: cfg.Config) -> str:
    """How many epochs were trained, and why fewer than asked for."""
    done, asked = info.get("epochs"), config.train.epochs
    if done is None or done == asked:
        return f"{asked} epoch{'' if asked == 1 else 's'}"
    ended = f" ({ENDED[info['ended']]})" if info.get("ended") in ENDED else ""
    return f"{done} of {asked} epochs{ended}"


def is_augmented(config: cfg.Config) -> bool:
    """Whether train images are changed at random."""
    augment = config.augment
    return bool(augment.probability or augment.flip or augment.erase or augment.mixup)


def selected_epoch_text(info: Mapping[str, Any], config: cfg.Config) -> str:
    """Which epoch's model the run has."""
    return "each member has its own" if info.get("members") else selected_text(info, config.train)


def blank_text(evaluation: Mapping[str, Any], config: cfg.Config) -> str:
    """What labels that are not mentioned count as."""
    blank = evaluation.get("blank") or {"train": config.data.blank, "here": config.data.blank}
    if blank["train"] == blank["here"]:
        return POLICIES[blank["train"]]
    return f"in training {POLICIES[blank['train']]}; in evaluation {POLICIES[blank['here']]}"


def ground_truth(source: str) -> str:
    """Where the labels of the evaluated data come from."""
    return f"The labels of the dataset. {ORIGINS.get(source, 'Some may be wrong.')}"


def validity(evaluation: Mapping[str, Any], part: str, source: str) -> str:
    """What the results hold for."""
    if source == "phantom":
        return "Drawn images like those it was evaluated on. It says nothing about radiographs."
    if evaluation["patients"] is not None or part == "train" or evaluation.get("epoch") == 0:
        shared = ""
    else:
        shared = f"; whether train and {part} share patients is not known"
    return f"Images like those it was evaluated on: these hospitals, machines and patients{shared}."


def operating_text(evaluation: Mapping[str, Any], part: str) -> str:
    """Where the thresholds come from."""
    operating = evaluation["operating"]
    if not operating["chosen_on_rows"]:
        return f"Thresholds were given: {operating['rule']}."
    text = f"Thresholds were chosen on val by this rule: {operating['rule']}."
    if operating["assurance"] and "at least" in operating["rule"]:
        unmet = not all(point["met"] for point in operating["points"].values())
        text += f" They include a margin: the rule holds on as many new rows with a probability of {100 * operating['assurance']:g}%"
        text += ", except where a label says otherwise." if unmet else "."
    if part == "val":
        text += " They were chosen and evaluated on the same rows, so these metrics are optimistic."
    return text


def high_recall_text(evaluation: Mapping[str, Any], recalls: Sequence[float], part: str) -> str:
    """What the table of high recalls shows."""
    points = [row["val"] for row in evaluation["at_recall"]]
    margin = " with a margin for its size" if any("assurance" in point for point in points) else ""
    text = f"For a recall of at least {' / '.join(f'{r:g}' for r in recalls)}, thresholds are chosen on val{margin}. "
    if part == "val":
        text += "The table shows what they give on the same rows, which is optimistic"
    else:
        text += f"The table shows what they give on {part}"
    text += f"; alarms are per 100 {unit(evaluation)}."
    if not all(point["met"] for point in points):
        text += " *: val is too small to ensure this recall, or has no positives."
    return text

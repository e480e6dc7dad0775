"""How right maps are, against boxes: a phantom with boxes of at most a tenth of the image, or real images with NIH's boxes.

    python benchmarks/localisation.py phantom --out FOLDER [--patients 1200] [--epochs 6] [--cases 200] [--without occlusion] [--threads 1]
    python benchmarks/localisation.py nih ROOT --weights mobilenet_v2-b0353104.pth --out FOLDER [--boxes BBox_List_2017.csv]

Trains a model, chooses the method and its blur by the hit rate on val, scores every method on test with intervals by patient next to the
location prior of the training part, and checks faithfulness and randomised weights. NIH's images with boxes are test and their patients'
other images are left out; there the prior comes from --boxes, the complete published list without these images, and the method is the one
that the phantom chose (--method), since nothing is left to choose it on.
"""

import argparse
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from trainings import trained

from cxr_ray import datasets, runs
from cxr_ray.data import store as stores
from cxr_ray.datasets import annotations
from cxr_ray.datasets.phantom import generate
from cxr_ray.explanation import localisation, location_prior, map_scores, similarity
from cxr_ray.explanation.cases import annotated_cases
from cxr_ray.explanation.faithfulness import RANDOM, CurveSettings, faithfulness
from cxr_ray.explanation.map_scores import PRIOR, Cases
from cxr_ray.explanation.methods import attribute
from cxr_ray.explanation.passes import gray_level
from cxr_ray.explanation.randomisation import cascade
from cxr_ray.explanation.trust import Checks, trust
from cxr_ray.imaging.pixels import Transform
from cxr_ray.imaging.shapes import Placement
from cxr_ray.inference.loading import load_model, load_predictor
from cxr_ray.on_ray.ingest import IngestSettings, ingest

LARGEST = 0.1
"""Share of the image that the boxes of a label may cover together."""
BLURS = (0.0, 0.03, 0.06)
CHUNK = 16
CHECKED = ("saliency", "gradcam", "lrp_epsilon")
"""Methods whose faithfulness and randomised weights are reported too, with the chosen one."""
SAMPLE = 64
"""Test cases of those checks."""


@dataclass(frozen=True)
class Trained:
    """A run with its store, the masks of all annotations, and the methods to compare."""

    run: runs.Run
    store: stores.Store
    masks: dict[tuple[int, str], Any]
    labels: list[str]
    methods: dict[str, tuple[str, dict[str, Any]]]

    def cases(self, part: str, most: int | None = None) -> Cases:
        """The annotated cases of a part, at most `most` positive ones, chosen by a fixed seed."""
        plan = runs.plan_of(self.run, self.store)
        rows, columns = plan.rows[part], [plan.labels.index(label) for label in self.labels]
        index = self.store.index.set_index("row").loc[rows]
        masks, truth = self.masks, plan.truth[part][:, columns]
        if most is not None:
            here = [key for key in masks if key[0] in set(rows.tolist()) and key[1] in self.labels]
            chosen = np.random.default_rng(0).permutation(len(here))[:most]
            masks = {here[at]: masks[here[at]] for at in chosen}
        probabilities = load_predictor(self.run, gpu=False).rows(self.store, rows)[:, columns]
        return annotated_cases(masks, rows, self.labels, truth, probabilities, index["patient"].tolist())

    def batches(self, cases: Cases) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Normalised inputs and explained outputs of the cases."""
        model = load_model(self.run)
        outputs = [self.run.info["labels"].index(label) for label in cases.labels]
        pieces = []
        for at in range(0, len(cases), CHUNK):
            grays = torch.from_numpy(self.store.images(cases.rows[at : at + CHUNK]))
            pieces.append((model.preprocess(grays), torch.tensor(outputs[at : at + CHUNK])))
        return pieces

    def maps(self, network: torch.nn.Module, cases: Cases, name: str) -> Any:
        """Raw maps [N, H, W] of the method `name`."""
        method, options = self.methods[name]
        return np.concatenate(
            [attribute(method, network, x, target, **options).maps.numpy() for x, target in self.batches(cases)]
        )


def candidates(black: float, layer: str) -> dict[str, tuple[str, dict[str, Any]]]:
    """Methods with their options, by name."""
    return {
        "saliency": ("saliency", {}),
        "gradient_x_input": ("gradient_x_input", {}),
        "smoothgrad": ("smoothgrad", {"samples": 8, "of": "absolute"}),
        "integrated_gradients": ("integrated_gradients", {"steps": 10, "baseline": black}),
        "gradcam": ("gradcam", {}),
        f"gradcam {layer}": ("gradcam", {"layer": layer}),
        "occlusion": ("occlusion", {"window": 32, "stride": 16}),
        "lrp_epsilon": ("lrp_epsilon", {}),
        "lrp_alphabeta": ("lrp_alphabeta", {}),
        "lrp_gamma": ("lrp_gamma", {}),
        "lrp_composite": ("lrp_composite", {}),
    }


def small_masks(masks: Mapping[tuple[int, str], Any], largest: float) -> dict[tuple[int, str], Any]:
    """Those that cover at most `largest` of the image."""
    return {key: mask for key, mask in masks.items() if mask.mean() <= largest}


def phantom(args: argparse.Namespace) -> Trained:
    """A phantom of 128 px, a small ResNet, and the boxes of at most a tenth of the image."""
    if not (args.out / "phantom" / "phantom.csv").exists():
        generate.write(args.out / "phantom", patients=args.patients, size=128, seed=1)
    if not (args.out / "store" / "manifest.json").exists():
        records = datasets.load("phantom", args.out / "phantom")
        ingest(records, args.out / "phantom", args.out / "store", IngestSettings(source="phantom", size=(128, 128)))
    run = trained(
        {
            "output": str(args.out / "runs"),
            "data": {"shards": str(args.out / "store"), "split": {"test": 0.3, "val": 0.2}},
            "model": {"name": "resnet18", "weights": "none", "stem": "gray"},
            "optim": {"name": "adamw", "lr": 1e-3, "weight_decay": 0.01, "schedule": "cosine", "warmup_epochs": 0.5},
            "train": {"epochs": args.epochs, "batch_size": 32, "threads": args.threads},
            "report": {"trackers": []},
        },
        "phantom-resnet18",
    )
    store = stores.open(args.out / "store")
    boxes = annotations.of_store(store)
    assert boxes is not None
    masks = small_masks(annotations.marked_masks(boxes, store), LARGEST)
    labels = ["Lung Opacity", "Pleural Effusion"]  # Support Devices are long lines, whose boxes are mostly empty
    spec = load_model(run).spec
    return Trained(
        run, store, masks, labels, candidates(gray_level(0.0, mean=spec.mean, deviation=spec.deviation), "layer3")
    )


def nih(args: argparse.Namespace) -> tuple[Trained, dict[str, Any]]:
    """NIH's images: a pretrained MobileNetV2 trained on those without boxes, and the prior of the published list."""
    root = args.out / "nih"
    marked = pd.read_csv(args.root / "BBox_List_2017.csv")["Image Index"].unique()
    patients = {name.split("_")[0] for name in marked}
    if not (root / "Data_Entry_2017.csv").exists():
        table = pd.read_csv(args.root / "Data_Entry_2017_v2020.csv", dtype=str, keep_default_na=False)
        same = table["Image Index"].str.split("_").str[0].isin(patients) & ~table["Image Index"].isin(marked)
        table = table[~same]
        shutil.copytree(args.root / "images", root / "images")
        shutil.copy(args.root / "BBox_List_2017.csv", root)
        is_test = table["Image Index"].isin(marked)
        (root / "test_list.txt").write_text("\n".join(table["Image Index"][is_test]))
        (root / "train_val_list.txt").write_text("\n".join(table["Image Index"][~is_test]))
        table.to_csv(root / "Data_Entry_2017.csv", index=False)
    if not (args.out / "store" / "manifest.json").exists():
        ingest(datasets.load("nih", root), root, args.out / "store", IngestSettings(source="nih", size=(224, 224)))
    run = trained(
        {
            "output": str(args.out / "runs"),
            "data": {
                "shards": str(args.out / "store"),
                "normalize": "imagenet",
                "split": {"test": "official", "val": 0.1},
            },
            "model": {"name": "mobilenet_v2", "weights": args.weights},
            "optim": {"name": "adamw", "lr": 3e-4, "weight_decay": 0.01, "schedule": "cosine", "warmup_epochs": 1},
            "augment": {"probability": 0.5},
            "train": {"epochs": 5, "batch_size": 16, "select": "last", "precision": "auto", "threads": args.threads},
            "report": {"trackers": []},
        },
        "nih-mobilenet_v2",
    )
    store = stores.open(args.out / "store")
    boxes = annotations.of_store(store)
    assert boxes is not None
    masks = annotations.marked_masks(boxes, store)
    published = annotations.read_annotations(str(args.boxes or args.root / "BBox_List_2017.csv"), "nih")
    place = Placement((1024, 1024), Transform(224 / 1024, 224 / 1024, 0.0, 0.0), (224, 224), (224, 224))
    others = [item for item in published.items if item.image not in set(marked)] or list(published.items)
    prior = location_prior.location_prior(
        np.stack([place.rasterize(item.parts(), item.frame) for item in others]), [item.label for item in others]
    )
    spec = load_model(run).spec
    methods = candidates(gray_level(0.0, mean=spec.mean, deviation=spec.deviation), "features.13")
    methods["occlusion"] = ("occlusion", {"window": 42, "stride": 21})
    return Trained(run, store, masks, sorted(prior), methods), prior


def without(task: Trained, names: list[str]) -> Trained:
    """The task without some methods, for a slow machine."""
    return replace(task, methods={name: method for name, method in task.methods.items() if name not in names})


def chosen_on_val(
    task: Trained, prior: dict[str, Any], most: int
) -> tuple[dict[str, float], dict[str, map_scores.Tuning], str]:
    """For each method the blur with the highest hit rate on val and its tuning, and the method with the highest hit rate."""
    cases, network = task.cases("val", most), load_model(task.run).backbone
    blur, tunings, best = (
        {},
        {PRIOR: map_scores.tune(location_prior.prior_maps(prior, cases.labels.tolist()), cases)},
        {},
    )
    for name in task.methods:
        raw = task.maps(network, cases, name)
        rates = {
            each: float(localisation.hits(localisation.positive(raw, blur=each), cases.masks).mean()) for each in BLURS
        }
        blur[name] = max(rates, key=lambda each: rates[each])
        tunings[name] = map_scores.tune(localisation.positive(raw, blur=blur[name]), cases)
        best[name] = rates[blur[name]]
        print(f"val, {len(cases)} cases, {name}: hit rate by blur {rates}", flush=True)
    return blur, tunings, max(best, key=lambda each: best[each])


def report(task: Trained, prior: dict[str, Any], blur: dict[str, float], tunings: Any, method: str, most: int) -> None:
    """Score every method on test, then check the chosen one: confidence, deletion and insertion, randomised weights."""
    cases, network = task.cases("test", most), load_model(task.run).backbone
    prior_NHW = location_prior.prior_maps(prior, cases.labels.tolist())
    maps = {name: localisation.positive(task.maps(network, cases, name), blur=blur[name]) for name in task.methods}
    table = map_scores.score_table(maps, prior_NHW, cases, tunings=tunings)
    for label in (map_scores.ALL, *np.unique(cases.labels)):
        print(f"\n## {label}, {int((cases.labels == label).sum()) if label != map_scores.ALL else len(cases)} cases\n")
        print(map_scores.wide(table, str(label)).to_string())
    print("\nchosen:", method, "blur", blur[method])
    print(table[(table["method"] == method) & (table["score"] == "hit")].to_string(index=False))
    hit = localisation.hits(maps[method], cases.masks)
    print("\nconfidence and hit:", map_scores.confidence_and_hit(cases.probabilities, hit, cases.patients))

    sample = task.cases("test", min(SAMPLE, most))
    checked = [method] + [name for name in CHECKED if name != method]
    raw = {name: task.maps(network, sample, name) for name in checked}
    original = {name: localisation.positive(each, blur=blur[name]) for name, each in raw.items()}
    settings = CurveSettings(task=task.run.info["task"], steps=8, orders=3)
    areas: dict[str, dict[str, list[Any]]] = {}
    for at, (x, target) in enumerate(task.batches(sample)):
        part = {name: each[at * CHUNK : at * CHUNK + len(x)] for name, each in original.items()}
        for name, found in faithfulness(network, x, target, part, settings).items():
            for kind, values in found.items():
                areas.setdefault(name, {}).setdefault(kind, []).append(values)
    joined = {name: {kind: np.concatenate(values) for kind, values in kinds.items()} for name, kinds in areas.items()}
    rows: list[dict[str, Any]] = []
    for name in checked:
        deletion = map_scores.mean_difference(joined[RANDOM]["deletion"], joined[name]["deletion"], sample.patients)
        insertion = map_scores.mean_difference(joined[name]["insertion"], joined[RANDOM]["insertion"], sample.patients)
        for kind, difference in (("deletion", deletion), ("insertion", insertion)):
            rows.append({"method": name, "curve": kind, **difference})
    faithful = pd.DataFrame(rows)
    print("\n" + faithful.round(3).to_string(index=False))

    stages, checks = [], Checks()
    for layer, changed in cascade(network, stages=4):
        for name in checked:
            here = task.maps(changed, sample, name)
            stages.append(
                {
                    "method": name,
                    "randomised down to": layer,
                    "rank correlation": similarity.rank_correlation(raw[name], here).mean(),
                    "ssim": similarity.ssim(raw[name], here).mean(),
                    "hit rate": localisation.hits(localisation.positive(here, blur=blur[name]), sample.masks).mean(),
                }
            )
            if name == method:  # the last stage stays
                checks = replace(
                    checks, randomised_correlation=stages[-1]["rank correlation"], randomised_ssim=stages[-1]["ssim"]
                )
    print("\n" + pd.DataFrame(stages).round(3).to_string(index=False))
    deletion = next(row for row in rows if row["method"] == method and row["curve"] == "deletion")
    checks = replace(checks, deletion=deletion)
    for label in (map_scores.ALL, *np.unique(cases.labels)):
        print("\n" + trust(table, method, checks, label=str(label)))


def main() -> None:
    """Run the benchmark that the first argument names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="what", required=True)
    for name in ("phantom", "nih"):
        each = commands.add_parser(name)
        each.add_argument("--out", type=Path, required=True)
        each.add_argument("--threads", type=int, default=1)
        each.add_argument("--cases", type=int, default=200)
        each.add_argument("--without", nargs="*", default=[])
    commands.choices["phantom"].add_argument("--patients", type=int, default=1200)
    commands.choices["phantom"].add_argument("--epochs", type=int, default=6)
    commands.choices["nih"].add_argument("root", type=Path)
    commands.choices["nih"].add_argument("--weights", required=True)
    commands.choices["nih"].add_argument("--boxes", type=Path)
    commands.choices["nih"].add_argument("--method", default="integrated_gradients")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.what == "nih":
        task, prior = nih(args)
        task = without(task, args.without)
        report(task, prior, dict.fromkeys(task.methods, 0.0), None, args.method, args.cases)
        return
    task = without(phantom(args), args.without)
    training = task.cases("train")
    prior = location_prior.location_prior(training.masks, training.labels.tolist())
    blur, tunings, method = chosen_on_val(task, prior, args.cases // 2)
    report(task, prior, blur, tunings, method, args.cases)


if __name__ == "__main__":
    main()

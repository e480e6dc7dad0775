"""A model of half of the NIH patients judged on the other half, laid out as CheXpert; and whether a leak is found.

    python benchmarks/external.py ROOT --weights mobilenet_v2-b0353104.pth --out FOLDER [--threads 2]

ROOT is a folder in NIH's layout; FOLDER is outside the repository, since it holds real images. Half of the patients, drawn at
random, are ingested as `nih` and trained on. The other half is written in the layout of CheXpert-v1.0-small, 390 x 320 JPEG as
published, with the labels that both data sets have, and ingested as `chexpert`. A second such folder also holds patients of the
first half: pictures that were trained on, saved again, and other pictures of their patients that were not.
"""

from pathlib import Path

import numpy as np
import pandas as pd
from nih import RECIPE
from PIL import Image
from trainings import arguments, trained

from cxr_ray import config as cfg
from cxr_ray import datasets
from cxr_ray.data import store as shards
from cxr_ray.datasets.chexpert import LABELS
from cxr_ray.errors import UserError
from cxr_ray.on_ray import cluster
from cxr_ray.on_ray.ingest import ingest
from cxr_ray.workflows import external

SHARED = {
    "Atelectasis": "Atelectasis", "Cardiomegaly": "Cardiomegaly", "Consolidation": "Consolidation", "Edema": "Edema",
    "Effusion": "Pleural Effusion", "Pneumonia": "Pneumonia", "Pneumothorax": "Pneumothorax", "No Finding": "No Finding",
}  # fmt: skip


def lay_out(table: pd.DataFrame, root: Path, out: Path) -> Path:
    """The rows of an NIH table as CheXpert-v1.0-small: its folders, names, size and columns; gives its folder."""
    place = out / "CheXpert-v1.0-small"
    rows = []
    for patient, images in table.groupby("patient"):
        for number, row in enumerate(images.to_dict("records"), start=1):
            file = Path("train") / f"patient{int(str(patient)):05d}" / f"study{number}" / "view1_frontal.jpg"
            (place / file).parent.mkdir(parents=True, exist_ok=True)
            Image.open(root / row["image"]).convert("L").resize((390, 320), Image.Resampling.BICUBIC).save(
                place / file, quality=90
            )
            rows.append({
                "Path": f"{place.name}/{file}", "Sex": {"M": "Male", "F": "Female"}.get(row["sex"], "Unknown"), "Age": row["age"],
                "Frontal/Lateral": "Frontal", "AP/PA": row["view"], **dict.fromkeys(LABELS),
                **{theirs: row[ours] for ours, theirs in SHARED.items()},
            })  # fmt: skip
    pd.DataFrame(rows).to_csv(place / "train.csv", index=False)
    return place


def main() -> None:
    """Two halves, one training, two other stores."""
    asked = arguments(__doc__).parse_args()
    records = datasets.load("nih", asked.root)
    table = records.table
    patients = np.sort(table["patient"].unique())
    first = set(np.random.default_rng(0).permutation(patients)[: len(patients) // 2])
    ours, theirs = table[table["patient"].isin(first)], table[~table["patient"].isin(first)]
    # Of patients with several images the last is put aside: a picture not trained on, of a patient who was.
    aside = ours[ours.duplicated("patient", keep="first") & ~ours.duplicated("patient", keep="last")]
    used = ours.drop(aside.index)
    again = used.groupby("patient").head(1).head(40)
    stores = {name: asked.out / name for name in ("nih-half", "chexpert-half", "chexpert-overlap")}
    if not all((place / "manifest.json").exists() for place in stores.values()):
        other = lay_out(theirs, asked.root, asked.out / "other")
        mixed = lay_out(pd.concat([theirs, again, aside]), asked.root, asked.out / "mixed")
        with cluster.session():
            kept = f"source_row in {used['source_row'].tolist()}"
            ingest(records, asked.root, stores["nih-half"], source="nih", where=kept)
            for place, name in ((other, "chexpert-half"), (mixed, "chexpert-overlap")):
                ingest(datasets.load("chexpert", place), place, stores[name], source="chexpert")
    values = cfg.merge(RECIPE, {
        "output": str(asked.out / "runs"), "data": {"shards": str(stores["nih-half"]), "normalize": "imagenet", "split": {"val": 0.25, "test": 0}},
        "model": {"weights": asked.weights}, "train": {"threads": asked.threads},
    })  # fmt: skip
    run = trained(values, "half")
    print(f"trained on {len(used)} images of {len(first)} patients; {len(again)} of them saved again and {len(aside)} others of their "
          f"patients lie among the {len(theirs)} images of the other {len(patients) - len(first)}")  # fmt: skip
    for name in ("chexpert-half", "chexpert-overlap"):
        print(f"{name}:")
        found = external.evaluate(
            run.path, stores[name], mapping={"Effusion": "Pleural Effusion"}, log=lambda line: print(f"  {line}")
        )
        values_of = {(v["metric"], v["label"]): v for v in found.found["values"]}
        for a in found.found["external"]["alignment"]:
            if a["data"] and ("auroc", a["label"]) in values_of:
                area, count = values_of["auroc", a["label"]], int(values_of["positives", a["label"]]["value"])
                between = f" ({area['low']:.2f} to {area['high']:.2f})" if "low" in area else ""
                print(
                    f"    {a['label']:14s} by {a['data']:18s} {count:4d} positives, ROC AUC {area['value']:.3f}{between}"
                )
    try:
        external.evaluate(run.path, shards.open(stores["nih-half"]).path, log=lambda line: print(f"  {line}"))
    except UserError as error:
        print(f"its own store: {error}")


if __name__ == "__main__":
    main()

"""External validation: a model of half of the NIH patients, evaluated on the other half in CheXpert's layout; and the leak check.

    python benchmarks/external.py ROOT --weights mobilenet_v2-b0353104.pth --out FOLDER [--threads 2]

ROOT is a folder in NIH's layout; FOLDER is outside the repository, since it contains real images. A random half of the patients
is ingested as `nih` and used for training. The other half is written in the layout of CheXpert-v1.0-small, 390 x 320 JPEG as
published, with the labels that both datasets have, and ingested as `chexpert`. A second such folder also contains patients of
the first half: training images that were saved again, and other images of their patients.
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
from cxr_ray.on_ray.ingest import IngestSettings, ingest
from cxr_ray.workflows import evaluations

SHARED = {
    "Atelectasis": "Atelectasis", "Cardiomegaly": "Cardiomegaly", "Consolidation": "Consolidation", "Edema": "Edema",
    "Effusion": "Pleural Effusion", "Pneumonia": "Pneumonia", "Pneumothorax": "Pneumothorax", "No Finding": "No Finding",
}  # fmt: skip


def write_chexpert(table: pd.DataFrame, root: Path, out: Path) -> Path:
    """Write the rows of an NIH table as CheXpert-v1.0-small (folders, names, size, columns); returns the folder."""
    folder = out / "CheXpert-v1.0-small"
    rows = []
    for patient, images in table.groupby("patient"):
        for number, row in enumerate(images.to_dict("records"), start=1):
            file = Path("train") / f"patient{int(str(patient)):05d}" / f"study{number}" / "view1_frontal.jpg"
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            Image.open(root / row["image"]).convert("L").resize((390, 320), Image.Resampling.BICUBIC).save(
                folder / file, quality=90
            )
            rows.append({
                "Path": f"{folder.name}/{file}", "Sex": {"M": "Male", "F": "Female"}.get(row["sex"], "Unknown"), "Age": row["age"],
                "Frontal/Lateral": "Frontal", "AP/PA": row["view"], **dict.fromkeys(LABELS),
                **{theirs: row[ours] for ours, theirs in SHARED.items()},
            })  # fmt: skip
    pd.DataFrame(rows).to_csv(folder / "train.csv", index=False)
    return folder


def main() -> None:
    """Train on one half and evaluate on two other stores."""
    args = arguments(__doc__).parse_args()
    records = datasets.load("nih", args.root)
    table = records.table
    patients = np.sort(table["patient"].unique())
    first = set(np.random.default_rng(0).permutation(patients)[: len(patients) // 2])
    ours, theirs = table[table["patient"].isin(first)], table[~table["patient"].isin(first)]
    # The last image of a patient with several is left out: not a training image, but of a training patient.
    left_out = ours[ours.duplicated("patient", keep="first") & ~ours.duplicated("patient", keep="last")]
    used = ours.drop(left_out.index)
    resaved = used.groupby("patient").head(1).head(40)
    stores = {name: args.out / name for name in ("nih-half", "chexpert-half", "chexpert-overlap")}
    if not all((folder / "manifest.json").exists() for folder in stores.values()):
        other = write_chexpert(theirs, args.root, args.out / "other")
        mixed = write_chexpert(pd.concat([theirs, resaved, left_out]), args.root, args.out / "mixed")
        with cluster.session():
            where = f"source_row in {used['source_row'].tolist()}"
            ingest(records, args.root, stores["nih-half"], IngestSettings(source="nih", where=where))
            for folder, name in ((other, "chexpert-half"), (mixed, "chexpert-overlap")):
                ingest(datasets.load("chexpert", folder), folder, stores[name], IngestSettings(source="chexpert"))
    values = cfg.merge(RECIPE, {
        "output": str(args.out / "runs"), "data": {"shards": str(stores["nih-half"]), "normalize": "imagenet", "split": {"val": 0.25, "test": 0}},
        "model": {"weights": args.weights}, "train": {"threads": args.threads},
    })  # fmt: skip
    run = trained(values, "half")
    print(f"trained on {len(used)} images of {len(first)} patients; {len(resaved)} of them saved again and {len(left_out)} others of their "
          f"patients are among the {len(theirs)} images of the other {len(patients) - len(first)}")  # fmt: skip
    for name in ("chexpert-half", "chexpert-overlap"):
        print(f"{name}:")
        found = evaluations.evaluate(
            run, data=stores[name], mapping={"Effusion": "Pleural Effusion"}, log=lambda line: print(f"  {line}")
        )
        values_of = {(v["metric"], v["label"]): v for v in found.results["values"]}
        for a in found.results["external"]["alignment"]:
            if a["data"] and ("auroc", a["label"]) in values_of:
                area, count = values_of["auroc", a["label"]], int(values_of["positives", a["label"]]["value"])
                interval = f" ({area['low']:.2f} to {area['high']:.2f})" if "low" in area else ""
                print(
                    f"    {a['label']:14s} by {a['data']:18s} {count:4d} positives, ROC AUC {area['value']:.3f}{interval}"
                )
    try:
        evaluations.evaluate(run, data=shards.open(stores["nih-half"]).path, log=lambda line: print(f"  {line}"))
    except UserError as error:
        print(f"its own store: {error}")


if __name__ == "__main__":
    main()

"""Which images the check for unusual ones finds: films that were inverted or turned, photographs, CT and other DICOMs.

    python benchmarks/unusual.py RUN [--films FOLDER] [--threads 2]

RUN is a run on frontal films, with its store. FOLDER has films of other hospitals. The photographs are crops of the two that
scikit-learn ships, the DICOMs are pydicom's test files; nothing is downloaded.
"""

import argparse
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pydicom.data
import torch
from PIL import Image
from sklearn.datasets import load_sample_images

from cxr_ray import runs
from cxr_ray.data import store as stores
from cxr_ray.imaging import decode
from cxr_ray.imaging.pixels import ImageError
from cxr_ray.inference import predictor, unusual, unusual_fit

Images = npt.NDArray[np.uint8]

CT = ("693_J2KI.dcm", "CT_small.dcm", "J2K_pixelrep_mismatch.dcm")
OTHER = ("MR_small.dcm", "examples_overlay.dcm", "examples_jpeg2k.dcm", "examples_rgb_color.dcm", "JPEG2000.dcm")
CROPS = 50
BATCH = 16


def decoded(files: list[Path], size: tuple[int, int]) -> Images:
    """Those of the files that are images [N, *size]."""
    found = []
    for file in files:
        try:
            found.append(decode.decode(file.read_bytes(), size).pixels)
        except ImageError as error:
            print(f"  left out: {file.suffix} file, {error.reason}")
    return np.stack(found).astype(np.uint8)


def photographs(size: tuple[int, int]) -> Images:
    """Random crops of scikit-learn's two photographs, in gray."""
    rng, crops = np.random.default_rng(0), []
    for pixels in load_sample_images().images:
        gray = Image.fromarray(pixels).convert("L")
        for _ in range(CROPS):
            side = int(rng.integers(150, min(gray.size)))
            left, top = (int(rng.integers(0, whole - side)) for whole in gray.size)
            crop = gray.crop((left, top, left + side, top + side))
            crops.append(np.asarray(crop.resize(size[::-1], Image.Resampling.BILINEAR)))
    return np.stack(crops)


def sets(store: stores.Store, test: npt.NDArray[np.int64], films: Path | None) -> Iterator[tuple[str, Images]]:
    """Every set of the table with its name."""
    images = store.pictures(test)
    yield "test", images
    yield "test, inverted", 255 - images
    yield "test, by 90 degrees", np.rot90(images, 1, (1, 2))
    yield "test, by 270 degrees", np.rot90(images, 3, (1, 2))
    yield "test, by 180 degrees", np.rot90(images, 2, (1, 2))
    yield "test, left and right exchanged", images[:, :, ::-1]
    if films is not None:
        others = decoded(sorted(films.iterdir()), store.size)
        yield "films of other hospitals", others
        yield "the same, inverted", 255 - others
        yield "the same, by 90 degrees", np.rot90(others, 1, (1, 2))
    yield "crops of two photographs", photographs(store.size)
    shipped = {name: Path(str(pydicom.data.get_testdata_file(name, read=False))) for name in (*CT, *OTHER)}
    slices = decoded([shipped[name] for name in CT], store.size)
    yield "three CT slices, in four directions", np.concatenate([np.rot90(slices, k, (1, 2)) for k in range(4)])
    yield "MR, ultrasound, scintigraphy", decoded([shipped[name] for name in OTHER], store.size)


def speed(model: predictor.Predictor, images: Images, rounds: int = 9) -> None:
    """Print the median time of an image without and with the check, taken in turns."""
    times: dict[str, list[float]] = {"probabilities": [], "checked": []}
    for _ in range(rounds):
        for name, took in times.items():
            started = time.perf_counter()
            getattr(model, name)(images)
            took.append((time.perf_counter() - started) / len(images) * 1e3)
    plain, checked = (float(np.median(took)) for took in times.values())
    print(
        f"one batch of {len(images)}: {plain:.2f} ms an image, with the check {checked:.2f} ms ({checked / plain - 1:+.1%})"
    )


def main() -> None:
    """Fit the check if the run has none, and print the share of each set that is unusual, by statistic too."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--films", type=Path)
    parser.add_argument("--threads", type=int)
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    warnings.simplefilter("ignore")  # of damaged test files
    run = runs.load(args.run)
    store = stores.open(run.info["store"]["path"])
    unusual_fit.fit_missing(run, store, gpu=False, log=print)
    model = predictor.load(run, gpu=False)
    check = model.check
    assert check is not None
    print(f"{run.path.name}: {check.about['train']} train rows, {check.about['val']} val rows, "
          f"{(run.path / unusual.FILE).stat().st_size:,} bytes")  # fmt: skip
    test = run.plan.loc[run.plan["part"] == "test", "row"].to_numpy(np.int64)
    names = list(check.gaussians)
    print("| images | number | unusual | median score | " + " | ".join(names) + " |")
    print("|---" * (4 + len(names)) + "|")
    for title, images in sets(store, test, args.films):
        batches = [model.measured(images[at : at + BATCH])[1] for at in range(0, len(images), BATCH)]
        values = {name: np.concatenate([batch[name] for batch in batches]) for name in names}
        score, ratios = check.scores(values), check.ratios(values)
        shares = " | ".join(f"{(ratios[name] > 1).mean():.3f}" for name in names)
        print(f"| {title} | {len(images)} | {(score > 1).mean():.3f} | {np.median(score):.2f} | {shares} |", flush=True)
    speed(model, store.pictures(test[:64]))


if __name__ == "__main__":
    main()

"""A fake of the COVID-19 Radiography Database: CLASS/images, CLASS/masks, CLASS.metadata.xlsx."""

from pathlib import Path

import pandas as pd

from tests.fakes.pictures import picture

COUNTS = {"COVID": 3, "Lung_Opacity": 4, "Normal": 5, "Viral Pneumonia": 2}
HOSTS = {
    "COVID": "https://www.sirm.org/x/",
    "Lung_Opacity": "https://rsna.org/a",
    "Normal": "https://rsna.org/b",
    "Viral Pneumonia": "kaggle.com/c",
}


def write(root: Path, *, level: bool = True, masks: bool = True, sheets: bool = True) -> Path:
    """`level` False: an older release, with images directly in the class folder and without masks."""
    number = 0
    for name, count in COUNTS.items():
        rows = []
        for i in range(1, count + 1):
            number += 1
            file = f"{name}-{i}.png"
            picture(root / name / "images" / file if level else root / name / file, number)
            if masks and level:
                picture(root / name / "masks" / file, 100 + number, size=(10, 10))
            rows.append(
                {"FILE NAME": file.removesuffix(".png").upper(), "FORMAT": "PNG", "SIZE": "256*256", "URL": HOSTS[name]}
            )
        if sheets:
            pd.DataFrame(rows).to_excel(root / f"{name}.metadata.xlsx", index=False)
    return root

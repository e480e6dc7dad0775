"""A fake of NIH ChestX-ray14: its table, the official lists, the box file, and images in one or several folders."""

from pathlib import Path

from tests.fakes.pictures import picture

# file, findings, follow-up, patient, age, sex, view, official list
ROWS = [
    ("00000001_000.png", "Cardiomegaly", 0, 1, "058", "M", "PA", "train_val"),
    ("00000001_001.png", "Cardiomegaly|Emphysema", 1, 1, "058", "M", "PA", "train_val"),
    ("00000002_000.png", "No Finding", 0, 2, "081", "M", "AP", "train_val"),
    ("00000003_000.png", "Hernia|Infiltration", 0, 3, "414", "F", "PA", "test"),
    ("00000003_001.png", "Pleural_Thickening", 1, 3, "075", "F", "PA", "test"),
]
# The published header has a comma in `OriginalImage[Width,Height]`, so readers see two columns.
HEADER = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,{sex},View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]"
)
BOXES = [
    ("00000001_000.png", "Cardiomegaly", 256.0, 512.0, 128.0, 64.0),
    ("00000003_000.png", "Infiltrate", 0.0, 0.0, 1024.0, 1024.0),
]


def write(
    root: Path, *, release: str = "v2020", folders: int = 1, lists: bool = True, boxes: bool = True, side: int = 64
) -> Path:
    """`release`: v2020 or 2017, with different headers, ages and line endings. `folders` > 1: images_001/images and so on."""
    old = release == "2017"
    root.mkdir(parents=True, exist_ok=True)
    lines = [HEADER.format(sex="Patient Gender" if old else "Patient Sex") + ("," if old else "")]
    for number, (file, findings, follow_up, patient, age, sex, view, _) in enumerate(ROWS):
        years = f"{age}Y" if old else str(int(age))
        row = f"{file},{findings},{follow_up},{patient},{years},{sex},{view},2682,2749,0.143,0.143"
        lines.append(row + ("," if old else ""))
        folder = f"images_{number % folders + 1:03d}/images" if folders > 1 else "images"
        picture(root / folder / file, number, size=(side, side))
    name = "Data_Entry_2017.csv" if old else "Data_Entry_2017_v2020.csv"
    (root / name).write_text("\n".join(lines) + "\n", newline="\r\n" if old else "\n")
    for part in ("train_val", "test") if lists else ():
        names = [row[0] for row in ROWS if row[-1] == part]
        (root / f"{part}_list.txt").write_text("\n".join(names) + "\n")
    if boxes:
        box_lines = ["Image Index,Finding Label,Bbox [x,y,w,h],,,", *(",".join(map(str, box)) + ",,," for box in BOXES)]
        (root / "BBox_List_2017.csv").write_text("\n".join(box_lines) + "\n")
    return root

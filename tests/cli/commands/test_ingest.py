"""`cxr-ray ingest`: its flags, the options of a source, and the dry run."""

import contextlib
import dataclasses
import io
import shlex
from pathlib import Path

import pytest
from PIL import Image

from cxr_ray import cli
from cxr_ray.cli.commands import ingest
from cxr_ray.datasets import preview
from cxr_ray.errors import UserError
from tests.fakes import image_folder


def test_own_flags_are_suggested_for_a_misspelt_one() -> None:
    assert {"--size", "--hash-patients", "--shard-mib", "--dry-run", "--report", "--help"} <= set(ingest.own_flags())
    with pytest.raises(UserError, match="needs a source, got only flags: --size 32"):
        ingest.split_words(("--size", "32"), dry_run=False)
    with pytest.raises(UserError, match="unknown flag '--sise' of ingest; did you mean '--size'"):
        ingest.split_words(("--sise", "32"), dry_run=False)
    with pytest.raises(UserError, match="did you mean '--max-rejected'"):
        ingest.split_words(("image_folder", "a", "b", "--max-rejectd", "1"), dry_run=False)


def test_options_of_the_source_may_be_anywhere() -> None:
    for words in (
        ("image_folder", "a", "b", "--patient-regex", "(p.)"),
        ("--patient-regex", "(p.)", "image_folder", "a", "b"),
        ("image_folder", "--patient-regex=(p.)", "a", "b"),
    ):
        assert ingest.split_words(words, dry_run=False) == (
            "image_folder",
            Path("a"),
            Path("b"),
            {"patient_regex": "(p.)"},
        )
    assert ingest.split_words(("image_folder", "a"), dry_run=True) == ("image_folder", Path("a"), None, {})


def test_a_dry_run_prints_the_command_of_the_same_ingest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command behind `next:` has the same flags, without --dry-run and --report."""
    root = image_folder.write(tmp_path / "our films", {"COVID": 2, "Normal": 2})
    words = ["image_folder", str(root), str(tmp_path / "s"), "--patient-regex", "^(p[0-9]+)_", "--size", "40x32",
             "--aspect", "pad", "--depth", "16", "--where", "image > ''", "--max-rejected", "0.25", "--shard-mib", "8",
             "--hash-patients", "--hash-key", str(tmp_path / "key"), "--address", "auto", "--wait", "5", "--cpus", "2", "--exact-jpeg", "--plugins", "json"]  # fmt: skip
    calls = []
    monkeypatch.setattr(ingest, "run", lambda *args: calls.append(args))
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        assert cli.main(["ingest", *words, "--dry-run"]) == 0
    command = out.getvalue().splitlines()[-1].removeprefix("next: cxr-ray ")
    assert cli.main(["ingest", *words]) == cli.main(shlex.split(command)) == 0
    assert calls[0] == calls[1]
    defaults = [f.name for f in dataclasses.fields(calls[0][-1]) if getattr(calls[0][-1], f.name) == f.default]
    assert defaults == [], "every field must be set here, so that none can be forgotten"


def test_a_dry_run_decodes_images_with_the_settings_of_the_ingest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = image_folder.write(tmp_path / "films", {"COVID": 2, "Normal": 2})
    calls = []
    monkeypatch.setattr(preview.IsolatedDecoder, "decode", lambda *args, **settings: calls.append(settings))
    ingest.plan("image_folder", root, None, {}, ingest.Ingest(size="32", aspect="center_crop"))
    assert calls and all(settings["aspect"] == "center_crop" for settings in calls)


def test_a_dry_run_without_any_image_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its counts are printed all the same: they are of the table."""
    table = tmp_path / "films.csv"
    table.write_text("image,finding\n" + "".join(f"{n}.png,{n % 2}\n" for n in range(4)))
    words = [
        "ingest",
        "table",
        str(tmp_path),
        "--table",
        str(table),
        "--image",
        "image",
        "--labels",
        "finding",
        "--dry-run",
    ]
    assert cli.main(words) == 2
    out, errors = capsys.readouterr()
    assert "rows listed: 4" in out and "missing files: 4" in out and "next:" not in out
    assert errors.count("\n") == 1 and f"none of the 4 images exists in {tmp_path}, such as 0.png" in errors
    for n in range(3):
        Image.new("L", (8, 8)).save(tmp_path / f"{n}.png")
    assert cli.main(words) == 0
    assert (
        "warning: 25.0% of the files are missing; the ingest fails with more than --max-rejected 0.01"
        in capsys.readouterr().out
    )

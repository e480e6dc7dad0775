"""Short flags of the config's settings, and the help that lists them."""

import re

import pytest

from cxr_ray import cli
from cxr_ray import config as configs
from cxr_ray.cli import config_flags, flags
from cxr_ray.cli.commands import train, tune
from cxr_ray.errors import UserError

CASES = {
    "--store": ["shards/x"],
    "--model": ["lenet"],
    "--weights": ["imagenet"],
    "--image-size": ["224", "192"],
    "--epochs": ["3"],
    "--batch-size": ["8"],
    "--lr": ["1e-3"],
    "--workers": ["2"],
}


def test_a_short_flag_gives_what_the_dotted_flag_gives() -> None:
    assert sorted(CASES) == sorted(config_flags.SHORT)
    for flag, words in CASES.items():
        dotted = [f"--{config_flags.SHORT[flag].setting}", *words]
        expected = train.read_config(None, tuple(dotted))
        assert expected != configs.Config()
        assert train.read_config(None, (flag, *words)) == expected
        assert train.read_config(None, (flag.replace("-", "_").replace("__", "--"), *words)) == expected
        assert tune.read_config(None, (flag, *words)) == expected
        assert train.read_config(None, (*dotted, flag, *words)) == expected  # both, with equal values
        if len(words) == 1:
            assert train.read_config(None, (f"{flag}={words[0]}",)) == expected


@pytest.mark.parametrize(
    ("words", "size"), [(["224"], (224, 224)), (["320x256"], (320, 256)), (["[64, 32]"], (64, 32)), (["null"], None)]
)
def test_one_number_is_a_square_image(words: list[str], size: tuple[int, int] | None) -> None:
    assert train.read_config(None, ("--image-size", *words)).data.image_size == size


@pytest.mark.parametrize("command", ["train", "tune", "config"])
def test_two_flags_of_a_setting_with_different_values_are_an_error(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([command, "--lr", "0.1", "--optim.lr", "0.2"]) == 2
    assert capsys.readouterr().err == (
        "cxr-ray: error: --lr and --optim.lr are the same setting with different values, 0.1 and 0.2; give one of them\n"
    )
    assert cli.main([command, "--image-size", "32", "--data.image-size", "32", "64"]) == 2
    assert "[32, 32]" not in capsys.readouterr().out
    assert cli.main([command, "--lr", "0.1", "--lr", "0.1"]) == 2
    assert "--lr is given twice" in capsys.readouterr().err


def test_a_short_flag_overrides_the_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["config", "-c", "preset:demo", "--epochs", "7"]) == 0
    assert "  epochs: 7 " in capsys.readouterr().out


def shown(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert cli.main(words) == 0
    return " ".join(capsys.readouterr().out.split())


def test_help_lists_the_short_flags_and_the_common_settings(capsys: pytest.CaptureFixture[str]) -> None:
    known = [name for name, _ in flags.settings(configs.Config)]
    assert len(config_flags.COMMON) == 20
    for command, common in (("train", config_flags.COMMON), ("tune", config_flags.COMMON_TUNE), ("config", ())):
        assert set(common) <= set(known) and not set(common) & set(config_flags.TYPED)
        text = shown([command, "--help"], capsys)
        for flag, short in config_flags.SHORT.items():
            assert f"{flag}, --{short.setting} (" in text
        listed = re.findall(r"--([\w.]+) \(", text)
        assert sorted(listed) == sorted([*config_flags.TYPED, *common])
        assert f"cxr-ray {command} --help-all lists all {len(known)} settings" in text


def test_help_all_lists_every_setting_by_section(capsys: pytest.CaptureFixture[str]) -> None:
    known = [name for name, _ in flags.settings(configs.Config)]
    for command in ("train", "tune", "config"):
        text = shown([command, "--help-all"], capsys)
        assert sorted(re.findall(r"--([\w.]+) \(", text)) == sorted(known)
        assert "--lr, --optim.lr (number; default 0.0001) Highest learning rate." in text
        assert " data.split: Which rows are train, val and test. " in text
    assert shown(["tune", "--help-all"], capsys).startswith("tune: ")
    assert shown(["train", "--help-all"], capsys).startswith("general: ")


def test_a_word_that_is_no_flag_is_an_error() -> None:
    with pytest.raises(UserError, match="unexpected extra; write a setting as --store FOLDER"):
        train.read_config(None, ("extra",))

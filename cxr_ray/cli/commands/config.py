"""`cxr-ray config`: prints the settings as commented YAML."""

from cyclopts import App

from cxr_ray import config as configs
from cxr_ray.cli import config_flags, flags
from cxr_ray.cli.commands.train import read_config
from cxr_ray.cli.parameters import FileFlag, HelpAll, SettingWord

app = App(
    name="config",
    usage="Usage: cxr-ray config [-c FILE|preset:NAME] [--SETTING VALUE ...]",
    help_format="markdown",
    help_epilogue=config_flags.epilogue((), "config"),
)


@app.default
def config(*words: SettingWord, config: FileFlag = None, help_all: HelpAll = False) -> None:
    """Show every setting with its default and meaning, or a config file, resolved.

    The output is YAML for `cxr-ray train -c`; start with: cxr-ray config > my.yaml

    Parameters
    ----------
    config
        YAML file of settings, or preset:NAME. Settings that it does not contain are shown with their defaults.
    help_all
        Show every setting and its flags, by section.
    """
    if help_all:
        config_flags.print_all()
        return
    resolved = read_config(config, words)
    title = f"{config}, resolved" if config else "Every setting with its default"
    print(f"# {title}. To train with it: cxr-ray train -c FILE")
    print(flags.commented_yaml(configs.Config, resolved.model_dump(mode="json")), end="")

"""`cxr-ray config`: prints the settings as commented YAML."""

from cyclopts import App

from cxr_ray import config as configs
from cxr_ray.cli import flags
from cxr_ray.cli.commands.train import FileFlag, Words, read_config

app = App(
    name="config", usage="Usage: cxr-ray config [-c FILE|preset:NAME] [--SETTING VALUE ...]", help_format="markdown"
)


@app.default
def config(*words: Words, config: FileFlag = None) -> None:
    """Show every setting with its default and meaning, or a config file, resolved.

    The output is YAML for `cxr-ray train -c`; start with: cxr-ray config > my.yaml

    Parameters
    ----------
    config
        YAML file of settings, or preset:NAME. Settings that it does not contain are shown with their defaults.
    """
    resolved = read_config(config, words)
    title = f"{config}, resolved" if config else "Every setting with its default"
    print(f"# {title}. To train with it: cxr-ray train -c FILE")
    print(flags.commented_yaml(configs.Config, resolved.model_dump(mode="json")), end="")

"""`cxr-ray config`: the knobs as commented YAML."""

from cyclopts import App

from cxr_ray import config as configs
from cxr_ray.cli import flags
from cxr_ray.cli.commands.train import FileFlag, Words, read_config

app = App(name="config", usage="Usage: cxr-ray config [-c FILE|preset:NAME] [--KNOB VALUE ...]", help_format="markdown")


@app.default
def config(*words: Words, config: FileFlag = None) -> None:
    """Every knob with its default and meaning; or a config file, resolved.

    The output is YAML that `cxr-ray train -c` reads: cxr-ray config > my.yaml is a good start.

    Parameters
    ----------
    config
        YAML file of knobs, or preset:NAME; what it leaves out is shown with its default.
    """
    resolved = read_config(config, words)
    said = f"{config}, resolved" if config else "Every knob with its default"
    print(f"# {said}. Try it: cxr-ray train -c FILE")
    print(flags.commented_yaml(configs.Config, resolved.model_dump(mode="json")), end="")

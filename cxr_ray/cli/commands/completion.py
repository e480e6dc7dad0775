"""`cxr-ray completion`: prints the script that makes a shell complete `cxr-ray`. The candidates are made in cli/completion/."""

from importlib import resources
from typing import Literal

from cyclopts import App

app = App(name="completion", help_format="markdown")

LOAD = {
    "bash": "echo 'eval \"$(cxr-ray completion bash)\"' >> ~/.bashrc",
    "zsh": "echo 'eval \"$(cxr-ray completion zsh)\"' >> ~/.zshrc",
    "fish": "cxr-ray completion fish > ~/.config/fish/completions/cxr-ray.fish",
}
"""How to load the script in every new shell."""


@app.default
def completion(shell: Literal["bash", "zsh", "fish"], /) -> None:
    """Print a script for tab completion in bash, zsh or fish.

    It completes commands, flags, settings and their choices, presets, sources, models, stores and runs. The script asks cxr-ray at
    each tab, so it stays valid when cxr-ray is updated.

    In bash: `eval "$(cxr-ray completion bash)"`, also as a line of ~/.bashrc; in zsh the same with zsh, in ~/.zshrc; in fish:
    `cxr-ray completion fish > ~/.config/fish/completions/cxr-ray.fish`

    Parameters
    ----------
    shell
        The shell to print the script for.
    """
    script = resources.files("cxr_ray.cli.completion") / f"completion.{shell}"
    print(script.read_text(encoding="utf-8"), end="")
    print(f"# To load it in every new shell: {LOAD[shell]}")

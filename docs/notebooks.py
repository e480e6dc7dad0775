"""How the site reads a tutorial: a Python file in the percent format, as a notebook for the kernel of this environment."""

from typing import Any

import jupytext


def read(text: str) -> Any:
    """The notebook of a Python file whose cells begin with `# %%`. The file names no kernel: it runs in any Python."""
    notebook = jupytext.reads(text, fmt="py:percent")
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook.metadata["language_info"] = {"name": "python", "pygments_lexer": "python"}
    return notebook

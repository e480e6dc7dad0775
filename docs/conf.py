"""Settings of the site that `make docs` builds with Sphinx. What it generates from the code is in generated.py and drawings.py.

`NOTEBOOKS=off make docs` leaves the tutorials unexecuted, to see a page of text in seconds.
"""

import os
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]
# The kernels that execute the tutorials, and Ray's workers below them, import this checkout.
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(HERE.parent), os.environ.get("PYTHONPATH")]))
# A kernel listens on the loopback device; Ray's usage statistics would ask the network.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import generated

import cxr_ray

project = "cxr_ray"
version = release = cxr_ray.__version__
html_title = f"cxr_ray {release}"
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx_copybutton"]
exclude_patterns = [
    "conf.py",
    "check.py",
    "drawings.py",
    "generated.py",
    "notebooks.py",
    "packages.py",
    "pictures.py",
    "_static",
]

html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sourcelink = False
html_show_copyright = False

myst_enable_extensions = ["colon_fence", "deflist", "fieldlist"]
myst_heading_anchors = 3

nb_custom_formats = {".py": "notebooks.read"}
nb_execution_mode = "off" if os.environ.get("NOTEBOOKS") == "off" else "force"
nb_execution_in_temp = True
nb_execution_timeout = 600
nb_execution_raise_on_error = True
nb_merge_streams = True
nb_output_stderr = "remove"  # notes of libraries about missing widgets, with paths of this machine

default_role = "code"  # a docstring writes `name`, as Markdown does
autodoc_typehints = "signature"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 100
copybutton_prompt_text = "$ "
nitpicky = False


def setup(app: Any) -> None:
    """Fill the generated parts of pages as they are read."""

    def fill(_: Any, name: str, source: list[str]) -> None:
        source[0] = generated.fill(source[0])

    def outdated(_: Any, environment: Any, *others: Any) -> list[str]:
        """Pages with generated parts: the code may have changed, though the page has not."""
        return [
            name
            for name in environment.found_docs
            if generated.ASKED.search(Path(environment.doc2path(name)).read_text(encoding="utf-8"))
        ]

    app.connect("source-read", fill)
    app.connect("env-get-outdated", outdated)

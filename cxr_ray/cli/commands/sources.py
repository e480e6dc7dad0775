"""`cxr-ray sources`: what datasets can be read."""

from cyclopts import App

from cxr_ray.cli import flags
from cxr_ray.cli.terminal import bullets, table

app = App(name="sources", help_format="markdown")


@app.default
def sources(name: str | None = None, /) -> None:
    """The datasets that can be read, and their options.

    Parameters
    ----------
    name
        One source: its options with their meaning.
    """
    from cxr_ray.registry import SOURCES

    if name is None:
        table(
            ["source", "reads", "options"],
            [[e.name, e.about, ", ".join(e.options.model_fields) or "-"] for e in SOURCES],
        )
        print("next: cxr-ray sources NAME, or cxr-ray ingest SOURCE ROOT OUT --dry-run")
        return
    entry = SOURCES[name]
    about = (entry.make.__doc__ or "").partition("Raises ")[0]  # what it raises is for those who call it
    print(f"{entry.name}: {' '.join(about.split())}")
    bullets("options, each a flag of ingest", flags.help_lines(entry.options, dashes=True))
    print(f"next: cxr-ray ingest {entry.name} ROOT OUT --dry-run")

"""`cxr-ray sources`: lists the datasets that can be ingested, or the options of one."""

from cyclopts import App

from cxr_ray.cli import flags, next_steps
from cxr_ray.cli.terminal import bullets, table

app = App(name="sources", help_format="markdown")


@app.default
def sources(name: str | None = None, /) -> None:
    """List the datasets that can be ingested, and their options.

    Parameters
    ----------
    name
        Show this source: its options with their meaning.
    """
    from cxr_ray.registry import SOURCES

    if name is None:
        table(
            ["source", "description", "options"],
            [[e.name, e.about, ", ".join(e.options.model_fields) or "-"] for e in SOURCES],
        )
        next_steps.show("cxr-ray sources NAME, or cxr-ray ingest SOURCE ROOT OUT --dry-run")
        return
    entry = SOURCES[name]
    about = (entry.make.__doc__ or "").partition("Raises ")[0]  # exceptions are for callers, not for the help
    print(f"{entry.name}: {' '.join(about.split())}")
    bullets("options, each a flag of ingest", flags.help_lines(entry.options, dashes=True))
    next_steps.show(f"cxr-ray ingest {entry.name} ROOT OUT --dry-run")

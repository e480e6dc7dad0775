"""The results of evaluations and comparisons as objects that show themselves. Nothing is computed or written here."""

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from cxr_ray.evaluation import analysis
from cxr_ray.evaluation.prediction_table import PredictionTable
from cxr_ray.evaluation.worst_errors import worst_errors
from cxr_ray.metrics import MAIN_METRICS, MEAN, label_table
from cxr_ray.metrics.titles import NAMES
from cxr_ray.plotting import comparison_plots, run_figures
from cxr_ray.plotting.plots import Figure
from cxr_ray.report import comparison_page
from cxr_ray.runs import Run, evaluation_files

SHOWN_CURVES = 8
"""ROC curves of an evaluation that a notebook shows; `figure` draws the others."""


@dataclass(frozen=True, repr=False)
class Evaluation:
    """The results of an evaluation. A notebook shows its table and its curves."""

    run: Run
    part: str
    """train, val or test; for external data the name of their store."""
    results: dict[str, Any]
    """All results as plain JSON, as in `evaluation-PART.json` (docs/reference/formats.md)."""
    report: Path
    """The HTML page."""
    predictions: pd.DataFrame = field(compare=False)
    """The evaluated predictions: `row, source_row, patient, study, true/LABEL..., prob/LABEL...`; one row per study if `by` is study."""

    @property
    def index(self) -> Path:
        """The page that lists all reports of the run."""
        return self.run.path / evaluation_files.INDEX

    @property
    def table(self) -> pd.DataFrame:
        """Recall, ROC AUC, precision, F1 and average precision by label, with intervals (`metrics.label_table`)."""
        return label_table.label_table(self.results["values"], self.results["labels"])

    @property
    def errors(self) -> pd.DataFrame:
        """Every wrong decision, the largest loss first (`evaluation.worst_errors`): `row, label, kind, truth, decision, probability,
        threshold, loss`. For classes a wrong row is an error of two of them."""
        labels = self.results["labels"]
        limits_L = [self.results["thresholds"][label] for label in labels]
        table = PredictionTable(self.predictions, labels, self.results["task"]).decide(limits_L)
        return worst_errors(table, self.predictions["row"].to_numpy(), limits_L)

    def figure(self, name: str) -> Figure:
        """A matplotlib figure: roc-LABEL, pr-LABEL, reliability-LABEL or confusion. Raises `UserError` with the names that there are."""
        return run_figures.pick(self._figures(), name, where=f" of the evaluation of {self.part}")

    def _figures(self) -> dict[str, run_figures.Draw]:
        found, labels = self.results, self.results["labels"]
        other = analysis.recalibrated(
            found["calibration"], self.predictions[[f"prob/{k}" for k in labels]].to_numpy(), labels
        )
        return run_figures.named(found, self.predictions, None if other is None else other[1])

    def __repr__(self) -> str:
        label = MEAN if len(self.results["labels"]) > 1 else self.results["labels"][0]
        found = {v["metric"]: v["value"] for v in self.results["values"] if v["label"] == label}
        values = ", ".join(f"{metric} {found[metric]:.3f}" for metric in MAIN_METRICS if metric in found)
        return f"Evaluation({self.run.path.name} on {self.part}, {self.results['rows']:,} rows: {values or 'all undefined'})"

    def _repr_html_(self) -> str:
        figures = self._figures()
        shown = ["confusion", *(f"roc-{label}" for label in self.results["labels"][:SHOWN_CURVES])]
        about = f"report: {self.report}"
        return label_table.card(
            repr(self), label_table.to_html(self.table), run_figures.images(figures, shown), about=about
        )


@dataclass(frozen=True, repr=False)
class Comparison:
    """Runs compared on the rows that all of them predicted. A notebook shows its tables."""

    results: dict[str, Any]
    """All results as plain JSON (`evaluation.compare.compare`)."""
    report: Path | None = None
    """The HTML page, if one was written."""

    @property
    def runs(self) -> list[str]:
        """Names of the runs; differences are to the first one."""
        return [str(run["name"]) for run in self.results["runs"]]

    @property
    def table(self) -> pd.DataFrame:
        """One row per label, then `mean`; the columns are (metric, run): recall first, then auroc, then precision. NaN if undefined."""
        tables = {
            run["name"]: label_table.label_table(run["values"], self.results["labels"]) for run in self.results["runs"]
        }
        shown = [m for m in self.results["shown"] if all(m in table for table in tables.values())]
        columns = {(metric, name): table[metric] for metric in shown for name, table in tables.items()}
        return pd.DataFrame(columns).rename_axis(columns=["metric", "run"])

    @property
    def differences(self) -> pd.DataFrame:
        """One row per pair of runs, metric and label: `first, second, metric, label, value` (second minus first) and, where they could be
        computed, `low, high` (95% interval), `p` and `delong_p`."""
        rows = [
            {"first": pair["first"], "second": pair["second"], **row}
            for pair in self.results["pairs"]
            for row in pair["rows"]
        ]
        return pd.DataFrame(rows).reindex(
            columns=["first", "second", "metric", "label", "value", "low", "high", "p", "delong_p"]
        )

    def figure(self, name: str) -> Figure:
        """A matplotlib figure: a metric (recall, auroc, ...) of every run by label, or the paired differences of two (SECOND-minus-FIRST),
        with intervals. Raises `UserError` with the names."""
        return run_figures.pick(self._figures(), name, where=" of the comparison")

    def _figures(self) -> dict[str, run_figures.Draw]:
        labels = [*self.results["labels"], *([MEAN] if len(self.results["labels"]) > 1 else [])]
        out: dict[str, run_figures.Draw] = comparison_page.difference_figures(self.results)
        for metric in self.results["shown"]:
            rows = [
                {"run": run["name"], **value}
                for run in self.results["runs"]
                for value in run["values"]
                if value["metric"] == metric and value["label"] in labels
            ]
            if rows:
                out[metric] = partial(comparison_plots.values, self.runs, labels, rows, NAMES[metric])
        return out

    def __repr__(self) -> str:
        return f"Comparison({', '.join(self.runs)}: {self.results['rows']:,} rows of {self.results['part']})"

    def _repr_html_(self) -> str:
        differences = self.differences[lambda table: table["metric"].isin(self.results["shown"])]
        number: dict[str, Any] = {
            "index": False,
            "border": 0,
            "na_rep": "–",
            "float_format": lambda value: f"{value:.3f}",
        }
        parts = [
            self.table.to_html(border=0, na_rep="–", float_format=number["float_format"]),
            "<div>differences, second minus first:</div>",
            differences.to_html(max_rows=40, **number),
            run_figures.images(self._figures(), ["recall", "auroc"]),
        ]
        return label_table.card(repr(self), *parts, about=f"report: {self.report}" if self.report else "")

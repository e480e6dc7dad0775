"""Train and evaluate chest X-ray classifiers on Ray.

Every public name is here, and is imported when it is first used: importing this package loads neither torch nor ray."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # for type checkers and editors; _PUBLIC is what Python reads
    from cxr_ray.config import Config, load_config
    from cxr_ray.data.store import Store, open_store
    from cxr_ray.data.store_format import verify
    from cxr_ray.datasets import Records, list_datasets, read_dataset
    from cxr_ray.datasets.phantom.generate import make_phantom
    from cxr_ray.errors import Finished, Interrupted, Stopped, UserError
    from cxr_ray.explanation.results import Explanation
    from cxr_ray.inference.loading import load_model, load_predictor
    from cxr_ray.inference.predictor import Predictor
    from cxr_ray.models.create import create_model, list_models
    from cxr_ray.models.serialization import save_model
    from cxr_ray.runs import Run
    from cxr_ray.tuning.sweep import Sweep
    from cxr_ray.workflows.embed import embed
    from cxr_ray.workflows.evaluations import compare, evaluate
    from cxr_ray.workflows.explain import explain
    from cxr_ray.workflows.export import Exported, export
    from cxr_ray.workflows.ingest import ingest
    from cxr_ray.workflows.predict import Prediction, predict
    from cxr_ray.workflows.results import Comparison, Evaluation
    from cxr_ray.workflows.runs import load_run, make_ensemble, resume, train
    from cxr_ray.workflows.tune import load_sweep, tune

__version__ = "0.1.0"

_PUBLIC = {
    # Settings
    "Config": "cxr_ray.config:Config",
    "load_config": "cxr_ray.config:load_config",
    # Data
    "list_datasets": "cxr_ray.datasets:list_datasets",
    "read_dataset": "cxr_ray.datasets:read_dataset",
    "Records": "cxr_ray.datasets:Records",
    "make_phantom": "cxr_ray.datasets.phantom.generate:make_phantom",
    "ingest": "cxr_ray.workflows.ingest:ingest",
    "open_store": "cxr_ray.data.store:open_store",
    "Store": "cxr_ray.data.store:Store",
    "verify": "cxr_ray.data.store_format:verify",
    # Models
    "list_models": "cxr_ray.models.create:list_models",
    "create_model": "cxr_ray.models.create:create_model",
    "save_model": "cxr_ray.models.serialization:save_model",
    "load_model": "cxr_ray.inference.loading:load_model",
    "load_predictor": "cxr_ray.inference.loading:load_predictor",
    "Predictor": "cxr_ray.inference.predictor:Predictor",
    "embed": "cxr_ray.workflows.embed:embed",
    # Runs
    "train": "cxr_ray.workflows.runs:train",
    "resume": "cxr_ray.workflows.runs:resume",
    "load_run": "cxr_ray.workflows.runs:load_run",
    "make_ensemble": "cxr_ray.workflows.runs:make_ensemble",
    "Run": "cxr_ray.runs:Run",
    # Results
    "evaluate": "cxr_ray.workflows.evaluations:evaluate",
    "Evaluation": "cxr_ray.workflows.results:Evaluation",
    "compare": "cxr_ray.workflows.evaluations:compare",
    "Comparison": "cxr_ray.workflows.results:Comparison",
    "predict": "cxr_ray.workflows.predict:predict",
    "Prediction": "cxr_ray.workflows.predict:Prediction",
    "explain": "cxr_ray.workflows.explain:explain",
    "Explanation": "cxr_ray.explanation.results:Explanation",
    "export": "cxr_ray.workflows.export:export",
    "Exported": "cxr_ray.workflows.export:Exported",
    "tune": "cxr_ray.workflows.tune:tune",
    "load_sweep": "cxr_ray.workflows.tune:load_sweep",
    "Sweep": "cxr_ray.tuning.sweep:Sweep",
    # Errors
    "UserError": "cxr_ray.errors:UserError",
    "Finished": "cxr_ray.errors:Finished",
    "Interrupted": "cxr_ray.errors:Interrupted",
    "Stopped": "cxr_ray.errors:Stopped",
}
"""Every public name, and the module and attribute that it is. No subpackage may have one of these names: it would replace it."""

__all__ = [
    "Comparison",
    "Config",
    "Evaluation",
    "Explanation",
    "Exported",
    "Finished",
    "Interrupted",
    "Prediction",
    "Predictor",
    "Records",
    "Run",
    "Stopped",
    "Store",
    "Sweep",
    "UserError",
    "compare",
    "create_model",
    "embed",
    "evaluate",
    "explain",
    "export",
    "ingest",
    "list_datasets",
    "list_models",
    "load_config",
    "load_model",
    "load_predictor",
    "load_run",
    "load_sweep",
    "make_ensemble",
    "make_phantom",
    "open_store",
    "predict",
    "read_dataset",
    "resume",
    "save_model",
    "train",
    "tune",
    "verify",
]


if not TYPE_CHECKING:  # with it, a type checker would accept any name

    def __getattr__(name: str) -> Any:
        """Import a public name at its first use (PEP 562)."""
        if name not in _PUBLIC:
            from cxr_ray.errors import closest

            raise AttributeError(f"module 'cxr_ray' has no attribute {name!r}{closest(name, _PUBLIC)}")
        module, _, attribute = _PUBLIC[name].partition(":")
        value = globals()[name] = getattr(import_module(module), attribute)
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC} - {"TYPE_CHECKING", "Any", "import_module"})

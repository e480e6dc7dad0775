"""Registries: names, validated options, and plugins with their errors."""

import importlib
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import model_validator

from cxr_ray.errors import UserError
from cxr_ray.registry import LOSSES, MODELS, MOVED, SOURCES, Options, Registry, load_named_plugins, load_plugins


class Width(Options):
    """Options of a test model."""

    width: int = 3
    """Channels."""


def narrow() -> None:
    """A narrow network.

    More about it."""


def wide() -> None:
    """A wide network."""


@pytest.fixture
def registry() -> Registry:
    registry: Registry = Registry("model", [])
    registry.register("narrow", Width)(narrow)
    return registry


def test_an_entry_has_the_first_line_of_the_docstring(registry: Registry) -> None:
    registry.register("a_wide_one")(wide)
    entry = registry["narrow"]
    assert (entry.make, entry.options, entry.about) == (narrow, Width, "A narrow network.")
    assert [one.name for one in registry] == ["a_wide_one", "narrow"]
    assert "narrow" in registry and "deep" not in registry


def test_a_name_belongs_to_one_object(registry: Registry) -> None:
    registry.register("narrow", Width)(narrow)  # a module that is imported twice registers the same object again
    with pytest.raises(UserError, match=r"model 'narrow' is registered twice: in tests.test_registry and in tests\."):
        registry.register("narrow")(wide)


def test_an_unknown_name_suggests_the_closest(registry: Registry) -> None:
    with pytest.raises(UserError) as caught:
        registry["narow"]
    assert str(caught.value) == "unknown model 'narow'; did you mean 'narrow'? Known: narrow"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"widht": 4}, "unknown option 'widht' at model.options of narrow; did you mean 'width'? known: width"),
        ({"zzz": 4}, "unknown option 'zzz' at model.options of narrow; known: width"),
        ({"width": "x"}, "model.options.width of narrow: must be a whole number"),
    ],
)
def test_options_are_validated(registry: Registry, options: dict[str, object], message: str) -> None:
    assert registry["narrow"].parse({"width": 4}, where="model.options") == Width(width=4)
    with pytest.raises(UserError) as caught:
        registry["narrow"].parse(options, where="model.options")
    assert str(caught.value).startswith(message)


def test_options_that_do_not_go_together_name_no_single_one(registry: Registry) -> None:
    class Pair(Options):
        low: int = 0
        high: int = 1

        @model_validator(mode="after")
        def _in_order(self) -> "Pair":
            if self.low > self.high:
                raise ValueError("low must not be above high")
            return self

    registry.register("pair", Pair)(narrow)
    with pytest.raises(UserError, match=r"^options of pair: low must not be above high, got"):
        registry["pair"].parse({"low": 2}, where="options")


def test_an_entry_without_options_says_so(registry: Registry) -> None:
    registry.register("wide")(wide)
    with pytest.raises(UserError, match=r"unknown option .width. at model\.options of wide; wide has no options"):
        registry["wide"].parse({"width": 4}, where="model.options")


def test_modules_are_imported_at_the_first_lookup() -> None:
    registry: Registry = Registry("model", ["no_such_module_of_a_registry"])
    registry.register("narrow")(narrow)
    with pytest.raises(ModuleNotFoundError):
        registry["narrow"]


@pytest.mark.parametrize("registry", [SOURCES, MODELS, LOSSES], ids=lambda registry: registry.kind)
def test_each_registered_object_has_a_description(registry: Registry) -> None:
    entries = list(registry)
    assert len(entries) > 4
    assert [entry.name for entry in entries if not entry.about] == []


# Plugins


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The file of a module `my_plugin` that can be imported."""
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path / "my_plugin.py"
    sys.modules.pop("my_plugin", None)


def failure(plugin: Path, text: str) -> str:
    """The message of loading a plugin with this text."""
    plugin.write_text(text, encoding="utf-8")
    with pytest.raises(UserError) as caught:
        load_plugins(["my_plugin"])
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_plugin_is_imported(plugin: Path) -> None:
    plugin.write_text("LOADED = True\n", encoding="utf-8")
    load_plugins(["my_plugin"])
    assert sys.modules["my_plugin"].LOADED


@pytest.mark.parametrize(
    ("text", "old", "new"),
    [
        ("from cxr_ray.sources import Records", "sources", "datasets"),
        ("from cxr_ray.sources.cells import numbers", "sources", "datasets"),
        ("from cxr_ray import sources", "sources", "datasets"),
        ("import cxr_ray.shards as stores", "shards", "data.store"),
        ("from cxr_ray.models.ends import stem", "models.ends", "models.heads"),
        ("from cxr_ray.models import ends", "models.ends", "models.heads"),
        ("from cxr_ray.datasets.labelled import LabelOptions", "datasets.labelled", "datasets.label_columns"),
        ("def load():\n    from cxr_ray import predictor\n\nload()", "predictor", "inference.predictor"),
        ("from cxr_ray.losses import Loss, Truth, at_least_fp32, known", "losses.Truth", "losses.base.Truth"),
        ("from cxr_ray.metrics import WORTH", "metrics.WORTH", "metrics.MAIN_METRICS"),
        ("import cxr_ray.models as m\nm.every_head", "models.every_head", "models.head_logits"),
    ],
)
def test_an_import_of_a_moved_module_names_the_new_one(plugin: Path, text: str, old: str, new: str) -> None:
    assert failure(plugin, text + "\n") == (
        f"plugins: 'my_plugin' uses cxr_ray.{old}, which is now cxr_ray.{new}; change that import"
    )


def test_a_missing_plugin_is_looked_for_on_the_path() -> None:
    with pytest.raises(UserError) as caught:
        load_plugins(["no_such_plugin"])
    assert str(caught.value) == (
        "plugins: cannot import 'no_such_plugin' (No module named 'no_such_plugin'); is its folder on PYTHONPATH?"
    )


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("from cxr_ray.errors import no_such_name", ImportError),
        ("from json import no_such_name", ImportError),
        ("1 / 0", ZeroDivisionError),
    ],
)
def test_other_errors_of_a_plugin_are_its_own_and_keep_their_traceback(
    plugin: Path, text: str, error: type[Exception]
) -> None:
    plugin.write_text(f"\n{text}\n", encoding="utf-8")
    with pytest.raises(UserError) as caught:
        load_plugins(["my_plugin"])
    assert isinstance(caught.value.__cause__, error)
    assert str(caught.value) == (
        f"plugins: 'my_plugin' fails when it is imported at line 2 of {plugin}: {error.__name__}: {caught.value.__cause__}"
    )


def test_a_plugin_that_is_no_python_is_named_with_its_line(plugin: Path) -> None:
    assert failure(plugin, "x = 1\ny = = 2\n") == (
        "plugins: 'my_plugin' fails when it is imported: SyntaxError: invalid syntax (my_plugin.py, line 2)"
    )


def is_module(name: str) -> bool:
    try:
        return importlib.util.find_spec(f"cxr_ray.{name}") is not None
    except ModuleNotFoundError:  # there is no such package
        return False


def is_attribute(name: str) -> bool:
    module, _, attribute = name.rpartition(".")
    return is_module(module) and hasattr(importlib.import_module(f"cxr_ray.{module}"), attribute)


def test_moved_modules_are_gone_and_their_new_names_exist() -> None:
    assert [old for old in MOVED if is_module(old)] == []
    assert [new for new in MOVED.values() if not is_module(new) and not is_attribute(new)] == []


def test_a_recorded_plugin_is_imported_only_when_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "recorded_plugin.py").write_text("raise SystemExit('it ran')\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(
        UserError, match=r"the run r was made with the plugins recorded_plugin, .*--plugins recorded_plugin"
    ):
        load_named_plugins([], ["recorded_plugin", "json", "recorded_plugin"], owner="the run r")
    with pytest.raises(SystemExit, match="it ran"):
        load_named_plugins(["recorded_plugin"], ["recorded_plugin"], owner="the run r")
    load_named_plugins([], ["json"], owner="the run r")  # this process has imported it already

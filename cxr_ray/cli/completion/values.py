"""Candidates for the value of a flag or a positional word: choices, names in registries, stores, runs and other paths."""

import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args, get_origin

from cxr_ray import config as configs
from cxr_ray.cli import flags

STORE, RUN, SWEEP = "manifest.json", "run.json", "sweep.json"
"""Files that make a folder a store, a run or a sweep."""


class Candidate(NamedTuple):
    """A possible word, and what it means."""

    text: str
    about: str = ""


def matching(texts: Iterable[str | Candidate], current: str) -> list[Candidate]:
    """Those that begin with `current`."""
    all_ = (text if isinstance(text, Candidate) else Candidate(text) for text in texts)
    return [each for each in all_ if each.text.startswith(current)]


def choices(annotation: Any) -> Iterator[str]:
    """The words that a type allows by name: choices, true and false, null."""
    for member in flags.union_members(annotation):
        if get_origin(member) is Literal:
            yield from (str(choice) for choice in get_args(member))
        elif member is bool:
            yield from ("true", "false")
        elif member is type(None):
            yield "null"
        elif get_origin(member) is list:
            yield from choices(get_args(member)[0])


def of_setting(setting: str, annotation: Any, current: str, *, store: str = "") -> list[Candidate]:
    """Values of a setting of `Config`; labels are those of the `store`, if it is given on the same line."""
    named = list(dict.fromkeys(choices(annotation)))
    if setting in ("model.name", "loss.name"):
        return matching(registered(setting.partition(".")[0], ["auto"] if setting == "loss.name" else []), current)
    if setting == "data.shards":
        return paths(current, marker=STORE)
    if setting == "model.weights":
        files = paths(current, marker=RUN, suffixes=(".pth", ".pt", ".safetensors"))
        return [*matching(["none", "imagenet"], current), *files]
    if setting in ("train.monitor", "tune.metric", "tune.constraint"):
        return matching(metric_names(store), current)
    if setting in ("data.labels", "report.labels"):
        labels, groups = store_labels(store)
        return matching(["all", *groups, *labels], current)
    if setting in ("output", "data.cache"):
        return [*matching(["auto", "none"] if setting == "data.cache" else [], current), *paths(current)]
    return matching(named, current)


def of_flag(command: str, flag: str, annotation: Any, current: str, *, run: str = "") -> list[Candidate]:
    """Values of a command's own flag; labels are those of the folder `run`."""
    named = list(dict.fromkeys(word for word in choices(annotation) if word != "null"))
    if flag in ("--config", "-c"):
        presets = [Candidate(f"preset:{name}") for name in preset_names()]
        if ":" not in current:
            presets = [Candidate("preset:", "a config that comes with cxr-ray")]
        return [*matching(presets, current), *paths(current, suffixes=(".yaml", ".yml"))]
    if flag in ("--resume", "--from"):
        return paths(current, marker=SWEEP if command == "tune" else RUN)
    if command == "evaluate" and flag == "--data":
        return paths(current, marker=STORE)
    if flag == "--thresholds":
        rules = ["youden", "f1", "recall=", "specificity=", *(f"{label}=" for label in run_labels(run))]
        return matching(rules, current)
    if flag == "--mapping":
        return matching((f"{label}=" for label in run_labels(run)), current)
    if (command, flag) in (("show", "--labels"), ("errors", "--label"), ("explain", "--class")):
        return matching(run_labels(run), current)
    if command == "explain" and flag == "--label":
        return matching(["predicted", "all", *run_labels(run)], current)
    if command == "explain" and flag == "--figures":
        return matching(["filters", "features", "pooling"], current)
    if flag == "--address":
        return matching(["auto", "local"], current)
    if named:
        return matching(named, current)
    if Path in flags.union_members(annotation) or flag in ("--output", "--out", "--sr", "--root"):
        return paths(current, suffixes=("",))
    return []


def positional(command: str, before: Sequence[str], current: str) -> list[Candidate]:
    """Candidates for the next positional word of a command, after the words `before`."""
    if command == "compare":
        return [one for one in paths(current, marker=RUN) if one.text not in before]
    kinds: dict[str, list[Callable[[str], list[Candidate]]]] = {
        "evaluate": [_runs],
        "explain": [_runs, paths],
        "predict": [_runs, paths, paths],
        "show": [_runs],
        "errors": [_runs],
        "runs": [paths],
        "describe": [_stores],
        "verify": [_stores],
        "init": [_stores],
        "sources": [_sources],
        "models": [lambda current: matching(registered("model"), current)],
        "ingest": [_sources, paths, paths],
        "phantom": [paths],
        "completion": [lambda current: matching(["bash", "zsh", "fish"], current)],
    }
    takes = kinds.get(command, [])
    return takes[len(before)](current) if len(before) < len(takes) else []


def _runs(current: str) -> list[Candidate]:
    return paths(current, marker=RUN)


def _stores(current: str) -> list[Candidate]:
    return paths(current, marker=STORE)


def _sources(current: str) -> list[Candidate]:
    from cxr_ray.registry import SOURCES

    return matching((Candidate(entry.name, entry.about) for entry in SOURCES), current)


def preset_names() -> list[str]:
    """The presets that come with cxr-ray."""
    return sorted(file.stem for file in configs.preset_path("demo").parent.glob("*.yaml"))


def paths(current: str, *, marker: str = "", suffixes: tuple[str, ...] = ()) -> list[Candidate]:
    """Folders that begin with `current`, and files that end in one of `suffixes`.

    A folder that contains the file `marker` is complete; others end in a slash, to be continued. Of an empty word, the marked
    folders in `runs` and `shards` come first."""
    folder, _, start = current.rpartition("/")
    prefix = current[: len(current) - len(start)]
    found = []
    if not current and marker:
        for usual in ("runs", "shards"):
            found += [one for one in paths(f"{usual}/", marker=marker) if not one.text.endswith("/")]
    try:
        entries = sorted(os.scandir(Path(prefix).expanduser() if folder or prefix else "."), key=lambda e: e.name)
    except OSError:
        return found
    for entry in entries:
        if not entry.name.startswith(start) or (entry.name.startswith(".") and not start.startswith(".")):
            continue
        if entry.is_dir():
            ends = bool(marker) and Path(entry.path, marker).is_file()
            found.append(Candidate(prefix + entry.name + ("" if ends else "/")))
        elif suffixes and entry.name.endswith(suffixes):
            found.append(Candidate(prefix + entry.name))
    return found


def store_labels(store: str) -> tuple[list[str], list[str]]:
    """(labels, groups) of a local store, without opening it; those of the common groups if no store is given."""
    try:
        manifest = json.loads((Path(store).expanduser() / STORE).read_text(encoding="utf-8")) if store else {}
    except (OSError, ValueError):
        manifest = {}
    return list(manifest.get("labels", ())), list(manifest.get("groups", ()))


def run_labels(run: str) -> list[str]:
    """Labels of a run's folder."""
    try:
        return list(json.loads((Path(run).expanduser() / RUN).read_text(encoding="utf-8"))["labels"]) if run else []
    except (OSError, ValueError, KeyError):
        return []


def metric_names(store: str) -> list[str]:
    """Names of metrics on val: of the mean, of all labels together, and of each label of the store."""
    from cxr_ray.metrics.names import AT_PRECISION, OVERALL_METRICS, RATES

    overall = dict.fromkeys(metric for metrics in OVERALL_METRICS.values() for metric in metrics)
    labels = [configs.MEAN, *store_labels(store)[0]]
    by_label = [configs.join_name("val", metric, label) for metric in (*RATES, *AT_PRECISION) for label in labels]
    return [*by_label, *(configs.join_name("val", metric) for metric in ("loss", *overall))]


def registered(kind: str, also: Sequence[str] = ()) -> list[str]:
    """Names of models or losses. They need torch, so they are cached until cxr_ray's files or torchvision's version change."""
    cache, key = _cache_file(kind), _cache_key(kind)
    try:
        cached = json.loads(cache.read_text(encoding="utf-8"))
        if cached["key"] == key:
            return [*also, *cached["names"]]
    except (OSError, ValueError, KeyError, TypeError):
        pass
    from cxr_ray.registry import LOSSES, MODELS

    names = [entry.name for entry in (MODELS if kind == "model" else LOSSES)]
    try:
        from cxr_ray.storage.atomic import write_atomic

        cache.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(cache, json.dumps({"key": key, "names": names}))
    except OSError:
        pass  # a read-only home: the next tab is slow again
    return [*also, *names]


def _cache_file(kind: str) -> Path:
    root = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(root).expanduser() / "cxr_ray" / "completion" / f"{kind}.json"


def _cache_key(kind: str) -> list[Any]:
    folder = Path(__file__).resolve().parents[2] / {"model": "models", "loss": "losses"}[kind]
    changed = max(file.stat().st_mtime_ns for file in folder.glob("*.py"))
    return [str(folder), changed, metadata.version("torchvision")]

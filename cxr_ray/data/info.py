"""What a dataset declares about itself. Records, the store's manifest and the plan share this one description."""

from typing import Any

from pydantic import BaseModel, ConfigDict, SerializerFunctionWrapHandler, model_serializer

from cxr_ray.labels import Filter, Task

LATER = ("blank_is_unknown", "other_class")
"""Keys that earlier versions do not know."""


class DatasetInfo(BaseModel):
    """Labels, task and recommended cleaning of a dataset, as its source declares them."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    labels: tuple[str, ...]
    """Label columns of the table, in order."""
    task: Task
    groups: dict[str, tuple[str, ...]] = {}
    """Label groups by name, such as competition5."""
    filters: tuple[Filter, ...] = ()
    """The recommended cleaning. The plan applies it in this order; the ingest does not."""
    default_labels: tuple[str, ...] = ()
    """Labels that the recommended cleaning keeps. A store takes all labels if empty."""
    features: tuple[str, ...] = ()
    """Columns whose balance between the parts is checked, in addition to the labels."""
    notes: tuple[str, ...] = ()
    """Remarks that every report about this dataset must show."""
    blank_is_unknown: bool = False
    """Whether a label that a row does not mention is unknown, and `data.blank` does not apply: the dataset's lists are complete,
    so a blank cell is no omission."""

    other_class: str | None = None
    """Of two classes, the name of the one that has no label column: rows that are negative for the other."""

    @model_serializer(mode="wrap")
    def _only_if_it_applies(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without `blank_is_unknown` where it is false and `other_class` where there is none: manifests of stores that do not need them
        stay as they were."""
        body: dict[str, Any] = handler(self)
        return {name: value for name, value in body.items() if name not in LATER or value}

    def blank_policy(self, blank: str) -> str:
        """What applies to cells that are not mentioned: `ignore` if they are unknown, else the setting `blank`."""
        return "ignore" if self.blank_is_unknown else blank

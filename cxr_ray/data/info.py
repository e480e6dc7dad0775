"""What a dataset declares about itself. Records, the store's manifest and the plan share this one description."""

from pydantic import BaseModel, ConfigDict

from cxr_ray.labels import Filter, Task


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

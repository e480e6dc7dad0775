"""How many processes of Ray share a piece of work, where they run, and how long they wait for room."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Workers:
    """Processes that each hold the model."""

    number: int = 1
    address: str | None = None
    """Of a Ray cluster; None: this machine."""
    wait: float | None = None
    """Minutes to wait while the cluster has no room. None: without an end in a Ray job, else 10."""

    @property
    def need_ray(self) -> bool:
        """Whether the work is Ray's, and not that of this process."""
        return self.number > 1 or self.address is not None

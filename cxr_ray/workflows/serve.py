"""A trained run as an HTTP service, for the command: what is served, and what it says of itself."""

import json
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cxr_ray import __version__
from cxr_ray.errors import UserError
from cxr_ray.storage.remote import to_local_path

if TYPE_CHECKING:
    from cxr_ray.inference.decisions import Decisions
    from cxr_ray.inference.predictor import Predictor
    from cxr_ray.metrics.operating_points import Rule

LOOPBACK = ("127.0.0.1", "::1", "localhost")
MIB = 2**20
BODIES = 8
"""Bodies of the largest size that are held at once."""
MODULES = ("starlette", "uvicorn", "fastapi")
"""Of the extra `serve`."""


@dataclass(frozen=True, kw_only=True)
class ServeOptions:
    """How a run is served."""

    host: str = "127.0.0.1"
    port: int = 8000
    """0: any free port."""
    token_file: Path | None = None
    """None: a new token, which is logged once."""
    thresholds: "Rule | None" = None
    """A number, one by label, or a rule, instead of the run's own."""
    replicas: int = 1
    batch_size: int = 8
    max_mib: int = 64
    """Of a body."""
    gpu: bool | str = "auto"
    address: str | None = None
    """Of a Ray cluster; None: RAY_ADDRESS, else this machine."""
    plugins: Sequence[str] = ()


def serve(run_or_model: str | Path, options: ServeOptions | None = None, *, log: Callable[[str], None] = print) -> None:
    """Serve a run, an ensemble or a model file until SIGINT or SIGTERM. `log` gets the URL once requests are answered.

    Raises `UserError`."""
    options = options or ServeOptions()
    _check_extra()
    for name, value in (
        ("replicas", options.replicas),
        ("batch-size", options.batch_size),
        ("max-mib", options.max_mib),
    ):
        if value < 1:
            raise UserError(f"--{name} must be at least 1, got {value}")
    from cxr_ray.inference import loading
    from cxr_ray.on_ray import serve as on_ray
    from cxr_ray.service.body import Limits
    from cxr_ray.service.token import make_token, token_in
    from cxr_ray.workflows.decisions import decisions_of

    path = to_local_path(run_or_model, "run").absolute()
    predictor = loading.load_predictor(path, gpu=False, plugins=options.plugins)
    decisions = decisions_of(predictor, options.thresholds)
    about = metadata(predictor, decisions, path, max_mib=options.max_mib)
    del predictor
    host, token_file = options.host, options.token_file
    token, made = (make_token(), False) if token_file is None else token_in(token_file)
    if host not in LOOPBACK:
        log(
            f"warning: {host} may be reached from other machines, and requests are not encrypted: put a proxy with TLS before it"
        )

    def ready(url: str) -> None:
        if token_file is None:
            log(f"token: {token} (shown only here; --token-file FILE keeps one)")
            shown = token
        else:
            log(f"token: in {token_file}{', which is new' if made else ''}")
            shown = f"$(cat {shlex.quote(str(token_file))})"
        log(f"ready: {url}")
        log(f'try: curl -H "Authorization: Bearer {shown}" --data-binary @film.png {url}/predict')
        sys.stdout.flush()

    settings = on_ray.ServiceSettings(
        run=str(path),
        decisions=decisions,
        plugins=tuple(options.plugins),
        gpu=options.gpu,
        host="127.0.0.1" if host == "localhost" else host,
        port=options.port,
        token=token,
        metadata=about,
        replicas=options.replicas,
        batch_size=options.batch_size,
        limits=Limits(body=options.max_mib * MIB, bodies=BODIES * options.max_mib * MIB),
    )
    on_ray.serve(settings, address=options.address, on_ready=ready)
    log("stopped")


def metadata(predictor: "Predictor", decisions: "Decisions", path: Path, *, max_mib: int) -> dict[str, Any]:
    """The answer of `/metadata`, plain JSON: model, labels, decisions, how images are read, limits."""
    from cxr_ray.imaging.decode import MAX_PIXELS
    from cxr_ray.workflows import weights

    digests = weights.digests_of(path if predictor.run is None else predictor.run)
    image_format = predictor.image_format
    body = {
        "model": {
            "name": path.name,
            "version": weights.version_of(digests)[:16],
            "cxr_ray": __version__,
        },
        "labels": list(predictor.labels),
        "task": predictor.task,
        "weights_sha256": digests,
        **decisions.describe(),
        "image": {"size": list(image_format.size), "aspect": image_format.aspect, "depth": image_format.depth},
        "limits": {"body_bytes": max_mib * MIB, "pixels": MAX_PIXELS},
        "use": "research use only: not a medical device",
    }
    return dict(json.loads(json.dumps(body)))


def _check_extra() -> None:
    """Raises `UserError` if the packages of the extra are not installed."""
    missing = [name for name in MODULES if find_spec(name) is None]
    if missing:
        raise UserError(f"the service needs {', '.join(missing)}: pip install 'cxr_ray[serve]'")

"""A trained run as an HTTP service, for the command: what is served, and what its callers are told of it."""

import json
import shlex
import sys
from collections.abc import Callable, Sequence
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
MODULES = ("starlette", "uvicorn", "fastapi")
"""Of the extra `serve`."""


def serve(
    run_or_model: str | Path,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    token_file: Path | None = None,
    thresholds: "Rule | None" = None,
    replicas: int = 1,
    batch_size: int = 16,
    max_mib: int = 64,
    gpu: bool | str = "auto",
    address: str | None = None,
    plugins: Sequence[str] = (),
    log: Callable[[str], None] = print,
) -> None:
    """Serve a run, an ensemble or a model file until SIGINT or SIGTERM. `log` gets the URL once requests are answered.

    `thresholds` are a number, one by label, or a rule, instead of the run's own. Raises `UserError`."""
    _check_extra()
    for name, value in (("replicas", replicas), ("batch-size", batch_size), ("max-mib", max_mib)):
        if value < 1:
            raise UserError(f"--{name} must be at least 1, got {value}")
    from cxr_ray.inference import loading
    from cxr_ray.on_ray import serve as on_ray
    from cxr_ray.service.body import Limits
    from cxr_ray.service.token import make_token, token_in
    from cxr_ray.workflows.decisions import decisions_of

    path = to_local_path(run_or_model, "run").absolute()
    predictor = loading.load_predictor(path, gpu=False, plugins=plugins)
    decisions = decisions_of(predictor, thresholds)
    about = metadata(predictor, decisions, path, max_mib=max_mib)
    del predictor
    token, made = (make_token(), False) if token_file is None else token_in(token_file)
    if host not in LOOPBACK:
        log(f"warning: {host} may be reached from other machines, and requests are not encrypted: put a proxy with TLS before it")

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
        plugins=tuple(plugins),
        gpu=gpu,
        host="127.0.0.1" if host == "localhost" else host,
        port=port,
        token=token,
        metadata=about,
        replicas=replicas,
        batch_size=batch_size,
        limits=Limits(body=max_mib * MIB, bodies=max(8, 2 * replicas) * max_mib * MIB),
    )
    on_ray.serve(settings, address=address, on_ready=ready)
    log("stopped")


def metadata(predictor: "Predictor", decisions: "Decisions", path: Path, *, max_mib: int) -> dict[str, Any]:
    """The answer of `/metadata`, plain JSON: model, labels, decisions, how images are read, limits."""
    from cxr_ray.data.store_format import digest_of
    from cxr_ray.imaging.decode import MAX_PIXELS
    from cxr_ray.storage.atomic import sha256

    run = predictor.run
    files = [path] if run is None else [member.weights for member in run.members or [run]]
    digests = [sha256(file) for file in files]
    image_format = predictor.image_format
    body = {
        "model": {
            "name": path.name,
            "version": (digests[0] if len(digests) == 1 else digest_of(digests))[:16],
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
    from importlib.util import find_spec

    missing = [name for name in MODULES if find_spec(name) is None]
    if missing:
        raise UserError(f"the service needs {', '.join(missing)}: pip install 'cxr_ray[serve]'")

"""`cxr-ray serve`: serves a run over HTTP until it is stopped. What is served is in workflows.serve, the service in on_ray.serve."""

from pathlib import Path

from cyclopts import App

from cxr_ray.cli.parameters import Words
from cxr_ray.cli.thresholds import read_thresholds

app = App(
    name="serve",
    help_format="markdown",
    help_epilogue="""Examples:

    cxr-ray serve runs/nih                                    # prints the URL, a token and a curl command
    cxr-ray serve runs/nih --token-file token --port 9000     # the token is kept in a file of mode 600
    curl -H "Authorization: Bearer $(cat token)" --data-binary @film.png http://127.0.0.1:9000/predict""",
)


@app.default
def serve(
    run: Path,
    /,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    token_file: Path | None = None,
    thresholds: Words = None,
    replicas: int = 1,
    batch_size: int = 8,
    max_mib: int = 64,
    gpu: bool | None = None,
    address: str | None = None,
    plugins: Words = None,
) -> None:
    """Serve a run over HTTP: POST a PNG, JPEG or DICOM file as the body to /predict, and get probabilities and decisions.

    The answer is JSON: `probabilities`, `calibrated`, `decisions` at the run's operating points, `unusual` and the version of the
    model; what the run does not have is null. A body that cannot be used gets a 4xx status with the reason in `error`. GET /metadata
    tells labels, thresholds and limits, GET /health (without the token) whether the model answers. Images that arrive together are
    predicted as a batch. Nothing of a request is logged. Ctrl-C (exit code 130) or SIGTERM (0) ends it after the
    requests that it has.

    Parameters
    ----------
    run
        Folder of a run or an ensemble, or a model file (.safetensors).
    host
        Address to listen on. Default: only this machine can reach it. The service does not encrypt: for other machines put a proxy
        with TLS before it.
    port
        Port to listen on; 0: any free one, which is printed.
    token_file
        File with the token that callers send; made with mode 600 if it is missing. Default: a new token is printed once.
    thresholds
        Instead of the run's own: a number, LABEL=NUMBER ..., or a rule such as recall=0.9.
    replicas
        Processes that hold the model. On CPUs one uses all cores.
    batch_size
        Most images of a batch.
    max_mib
        Largest body in MiB. Images have at most 178 megapixels.
    gpu
        Whether to use a GPU; default: if there is one.
    address
        Address of the Ray cluster whose nodes run the replicas. Default: RAY_ADDRESS (set in every Ray job), else this machine.
    plugins
        Modules that register the run's model. A run that was trained with plugins needs them named here.
    """
    from cxr_ray.workflows.serve import ServeOptions
    from cxr_ray.workflows.serve import serve as start

    options = ServeOptions(
        host=host,
        port=port,
        token_file=token_file,
        thresholds=read_thresholds(thresholds),
        replicas=replicas,
        batch_size=batch_size,
        max_mib=max_mib,
        gpu="auto" if gpu is None else gpu,
        address=address,
        plugins=plugins or (),
    )
    start(run, options)

"""The HTTP application: `/predict`, `/metadata` and `/health`. Every answer is JSON; one that is no prediction has an `error`.

Nothing of a request is logged: neither its path nor its body.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from cxr_ray.service.body import Bodies, Limits, Refusal
from cxr_ray.service.token import is_authorized

Answer = Callable[[bytes], Awaitable[Mapping[str, Any]]]
"""From the bytes of a file to the answer, or to `refused` with a reason. Raises `Refusal`."""
NOT_AN_IMAGE = "not an image"
"""Reason of `imaging.decode` for bytes of no known kind."""
AS_BODY = "send the file itself as the body: curl --data-binary @FILE"


def make_app(
    answer: Answer,
    is_healthy: Callable[[], Awaitable[bool]],
    metadata: Mapping[str, Any],
    *,
    token: str,
    limits: Limits | None = None,
) -> Starlette:
    """The application. `/health` needs no token and tells nothing; the others need `Authorization: Bearer TOKEN`."""
    bodies = Bodies(limits or Limits())

    async def predict(request: Request) -> Response:
        _authorize(request, token)
        _check_encoding(request)
        async with bodies.body(request) as body:
            result = await answer(body)
        if "refused" in result:
            unknown = result["refused"] == NOT_AN_IMAGE
            reason = f"{result['refused']}; {AS_BODY}" if unknown else result["refused"]
            raise Refusal(415 if unknown else 422, f"the image cannot be used: {reason}")
        return JSONResponse(dict(result))

    async def about(request: Request) -> Response:
        _authorize(request, token)
        return JSONResponse(dict(metadata))

    async def health(request: Request) -> Response:
        if not await is_healthy():
            raise Refusal(503, "the model is not ready", retry_s=1)
        return JSONResponse({"status": "ok"})

    app = Starlette(
        routes=[
            Route("/predict", predict, methods=["POST"]),
            Route("/metadata", about, methods=["GET"]),
            Route("/health", health, methods=["GET"]),
        ],
        exception_handlers={Refusal: _refused, HTTPException: _no_route, Exception: _failed},
    )
    app.router.redirect_slashes = False  # a redirect would have no reason, and the host that the caller names in it
    return app


def _authorize(request: Request, token: str) -> None:
    if not is_authorized(request.headers.get("authorization"), token):
        raise Refusal(401, "the header Authorization: Bearer TOKEN is missing or wrong")


def _check_encoding(request: Request) -> None:
    """Refuse bodies that wrap the file, which would be called damaged otherwise."""
    if request.headers.get("content-type", "").lower().startswith("multipart/"):
        raise Refusal(415, f"forms are not read: {AS_BODY}")
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise Refusal(415, f"compressed bodies are not read: {AS_BODY}")


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refusal)
    headers = {"WWW-Authenticate": "Bearer"} if error.status == 401 else {}
    if error.retry_s is not None:
        headers["Retry-After"] = str(error.retry_s)
    if error.status in (400, 401, 408, 413, 415, 503):  # the body may not be read to its end
        headers["Connection"] = "close"
    return JSONResponse({"error": error.reason}, status_code=error.status, headers=headers)


async def _no_route(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    routes = "POST /predict, GET /metadata and GET /health"
    return JSONResponse({"error": f"{error.detail}; there are {routes}"}, error.status_code, headers=error.headers)


async def _failed(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": "internal error"}, status_code=500)

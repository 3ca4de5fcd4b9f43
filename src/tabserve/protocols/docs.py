"""The OpenAPI document, and Swagger UI and ReDoc on it, with no file from another host.

Every address on the pages is relative, so they work wherever the app is mounted.
"""

import html
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tabserve.responses import json_response
from tabserve.routing import Route
from tabserve.types import Handler, Request, Response

_CONTENT_TYPES = {".js": "text/javascript", ".css": "text/css", ".png": "image/png"}

_NO_GUESSING = {"X-Content-Type-Options": "nosniff"}

# `style-src`: both viewers style their elements inline. `blob:`: ReDoc searches in a worker.
_HTML_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
        "worker-src 'self' blob:; object-src 'none'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    ),
    "X-Frame-Options": "DENY",  # of browsers that do not know frame-ancestors
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
} | _NO_GUESSING

_SWAGGER = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="docs/favicon.png">
<link rel="stylesheet" href="docs/swagger-ui.css"></head>
<body><div id="docs"></div>
<script src="docs/swagger-ui-bundle.js"></script>
<script src="docs/swagger-start.js"></script></body></html>
"""

_REDOC = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="docs/favicon.png"></head>
<body style="margin:0"><div id="docs"></div>
<script src="docs/redoc.standalone.js"></script>
<script src="docs/redoc-start.js"></script></body></html>
"""

_SWAGGER_START = b"""SwaggerUIBundle({
  url: "openapi.json", dom_id: "#docs", deepLinking: true, tryItOutEnabled: true,
});
"""

_REDOC_START = b"""Redoc.init("openapi.json", {hideLoading: true}, document.getElementById("docs"));
"""

_BUNDLED = ("swagger-ui-bundle.js", "swagger-ui.css", "redoc.standalone.js", "favicon.png")


def routes(title: str, document: Callable[[str], dict[str, Any]]) -> list[Route]:
    """document: the OpenAPI document for an app mounted at the given path."""

    def openapi(request: Request) -> Response:
        return json_response(document(request.root_path))

    pages = {
        "/openapi.json": openapi,
        "/docs": _page(_SWAGGER, title),
        "/redoc": _page(_REDOC, title),
    }
    files = {
        "/docs/swagger-start.js": _script(_SWAGGER_START),
        "/docs/redoc-start.js": _script(_REDOC_START),
        **{f"/docs/{name}": _bundled(name) for name in _BUNDLED},
    }
    return [
        Route("GET", path, handler, public=True) for path, handler in {**pages, **files}.items()
    ]


def _page(template: str, title: str) -> Handler:
    body = template.format(title=html.escape(title)).encode()
    return lambda request: Response(200, body, "text/html; charset=utf-8", dict(_HTML_HEADERS))


def _script(body: bytes) -> Handler:
    return lambda request: Response(200, body, "text/javascript; charset=utf-8", dict(_NO_GUESSING))


def _bundled(name: str) -> Handler:
    content_type = _CONTENT_TYPES[Path(name).suffix]
    return lambda request: Response(
        200,
        _bundled_bytes(name),
        content_type,
        {"Cache-Control": "max-age=86400"} | _NO_GUESSING,
    )


@cache
def _bundled_bytes(name: str) -> bytes:
    """Out of fastapi-offline, whose folder is found without importing it."""
    spec = find_spec("fastapi_offline")
    assert spec is not None, "fastapi-offline is a dependency of tabserve"
    assert spec.submodule_search_locations is not None
    return (Path(spec.submodule_search_locations[0]) / "static" / name).read_bytes()

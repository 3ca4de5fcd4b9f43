"""The Flask app: WSGI environment to a Request and a Response back."""

from collections.abc import Callable
from typing import Any

from tabserve.errors import BadRequest, ClientError, MissingExtra
from tabserve.exchange import respond
from tabserve.http import Dispatcher
from tabserve.receiving import Bounds
from tabserve.types import Request

try:
    import flask
    from werkzeug.routing import BaseConverter, Rule
except ImportError:
    raise MissingExtra("Flask", "flask") from None


class _Anything(BaseConverter):
    """Matches what Flask's `path` does not: an empty path, and one with a line break."""

    regex = "(?s:.*)"
    part_isolating = False
    weight = 10_000  # the least specific of all, so that any rule of the user's wins


def app(dispatcher: Callable[[], Dispatcher]) -> flask.Flask:
    """An ordinary app: routes that its user adds come first, then TabServe's.

    dispatcher: gives the dispatcher, which may be made in the worker at the first request.
    """
    made = flask.Flask("tabserve", static_folder=None)
    made.url_map.merge_slashes = False  # //predict is no route, not a redirect to one

    def endpoint(path: str) -> flask.Response:
        core = dispatcher()
        body, failure = _body(core.bounds)
        request = Request(
            method=flask.request.method,
            path=_path(flask.request.environ.get("PATH_INFO", "")),
            headers={name.lower(): value for name, value in flask.request.headers.items()},
            body=body,
            client=flask.request.remote_addr or "",
            root_path=flask.request.root_path,
            query=flask.request.environ.get("QUERY_STRING", ""),
            failure=failure,
        )
        response = respond(core, request)
        return flask.Response(
            response.body,
            response.status,
            response.headers,
            content_type=response.content_type,
        )

    made.url_map.converters["anything"] = _Anything
    # A rule of werkzeug's own has every method there is; Flask's would have those on a list.
    made.url_map.add(Rule("/<anything:path>", endpoint="tabserve"))
    made.view_functions["tabserve"] = endpoint
    made.wsgi_app = _with_a_path(made.wsgi_app)  # type: ignore[method-assign]
    return made


def _with_a_path(app: Callable[..., Any]) -> Callable[..., Any]:
    """No rule matches an empty one, as of `GET http://host?a=b`: it means / (RFC 9110, 4.2.3)."""

    def wsgi_app(environ: dict[str, Any], start_response: Any) -> Any:
        environ["PATH_INFO"] = environ.get("PATH_INFO") or "/"
        return app(environ, start_response)

    return wsgi_app


def _body(bounds: Bounds) -> tuple[bytes, ClientError | None]:
    """The body, or its beginning where it is longer than the bound, and what is wrong with the
    request as it came.
    """
    asked = flask.request
    if len(asked.environ.get("RAW_URI", "")) > bounds.max_target:
        return b"", bounds.target_too_long()
    sizes = [len(name) + len(value) for name, value in asked.headers.items()]
    if len(sizes) > bounds.max_headers or sum(sizes) > bounds.max_header_bytes:
        return b"", bounds.headers_too_large()
    try:
        return asked.stream.read(bounds.max_body + 1), None
    except Exception:  # noqa: BLE001 - such as a chunk without its size: each server has its own
        return b"", BadRequest("The body could not be read to its end.")


def _path(path_info: str) -> str:
    """As the client wrote it (PEP 3333): `flask.request.path` has lost a second leading slash."""
    return path_info.encode("latin-1").decode(errors="replace")

"""The Flask app: WSGI environment to a Request and a Response back."""

from collections.abc import Callable

from tabserve.errors import MissingExtra
from tabserve.http import Dispatcher, run
from tabserve.types import Request

try:
    import flask
except ImportError:
    raise MissingExtra("Flask", "flask") from None

_METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"]


def app(dispatcher: Callable[[], Dispatcher]) -> flask.Flask:
    """An ordinary app: routes that its user adds come first, then TabServe's.

    dispatcher: gives the dispatcher, which may be made in the worker at the first request.
    """
    made = flask.Flask("tabserve", static_folder=None)
    made.url_map.merge_slashes = False  # //predict is no route, not a redirect to one

    def endpoint(path: object = None) -> flask.Response:
        core = dispatcher()
        request = Request(
            method=flask.request.method,
            path=flask.request.path,
            headers={name.lower(): value for name, value in flask.request.headers.items()},
            # One byte more than is allowed shows that the body is too long.
            body=flask.request.stream.read(core.max_body + 1),
            client=flask.request.remote_addr or "",
            root_path=flask.request.root_path,
        )
        response = run(core.respond(request), request)
        return flask.Response(
            response.body,
            response.status,
            response.headers,
            content_type=response.content_type,
        )

    # The least specific rule of all, so that any rule of the user's wins.
    for rule in ("/", "/<path:path>"):
        made.add_url_rule(
            rule, "tabserve", endpoint, methods=_METHODS, provide_automatic_options=False
        )
    made.register_error_handler(405, endpoint)  # a method that is not even on the list
    return made

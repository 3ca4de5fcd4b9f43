"""What a server answers, and where: the routes of its ports, and the document that tells them."""

from collections.abc import Callable
from typing import Any

from tabserve import openapi
from tabserve.changes import Changes
from tabserve.metrics import Metrics
from tabserve.models import Models
from tabserve.named import NamedModel
from tabserve.protocols import admin, docs, models, records, status
from tabserve.routing import Route
from tabserve.served import ServedModel
from tabserve.settings import Settings


class Site:
    """why_draining: what /ready says; empty where it says what is so. extensions: each gives the
    operations of an app of the user's that this is part of.
    """

    def __init__(
        self, models: Models, changes: Changes, metrics: Metrics, settings: Settings
    ) -> None:
        self._models = models
        self._changes = changes
        self._metrics = metrics
        self._settings = settings
        self._tables: dict[str, tuple[NamedModel, list[Route]]] = {}
        self.why_draining = ""
        self.extensions: list[Callable[[], dict[str, Any]]] = []

    def main(self) -> list[Route]:
        """Of the port of the predictions."""
        routes = self._server_routes()
        if self._settings.docs == "main":
            routes += docs.routes(self.title[0], self.document)
        if self._settings.metrics == "main":
            routes += status.metrics_routes(self._metrics)
        for named in self._models.named.values():
            routes += self._routes_of(named)
        routes += self._default_routes()
        if self.why_draining:
            routes.append(status.stopping_route(self.why_draining))
        return routes

    def admin(self) -> list[Route]:
        """Of the admin port."""
        routes = [*self._server_routes(), *self._default_routes()]
        if self._settings.metrics != "off":
            routes += status.metrics_routes(self._metrics)
        if self._settings.docs == "admin":
            routes += docs.routes(self.title[0], self.document)
        for named in self._models.named.values():
            below = (f"/models/{named.name}", "/models/{name}")
            own = [*models.told_routes(self._models, named, self._metrics)]
            own += admin.routes(self._models, self._changes, named.name)
            routes += [route.below(*below) for route in own]
        return [route for route in routes if not route.limited]

    @property
    def title(self) -> tuple[str, str]:
        """Of the docs: name and version."""
        if len(self._models.named) > 1:
            return "models", "1"
        manifest = self._models.first.live.manifest
        return manifest.name, manifest.version

    def document(self, root_path: str) -> dict[str, Any]:
        title, version = self.title
        routes: list[Route] = []
        schemas: dict[str, Any] = {}
        for named in self._models.named.values():
            own, components = self._document_routes(named), records.schemas(named.live)
            if len(self._models.named) > 1:
                own, components = openapi.below(named.name, own, components)
            routes, schemas = [*routes, *own], schemas | components
        what = self._models.first.live.manifest.model_type
        if len(self._models.named) > 1:
            what = f"{len(self._models.named)} models"
        is_told = self._settings.metrics == "main"
        told = status.metrics_routes(self._metrics) if is_told else []
        document = openapi.document(
            [*routes, *self._server_routes(), *told],
            title=title,
            version=version,
            description=f"{what}, served by TabServe.",
            schemas=schemas,
            with_keys=bool(self._settings.keys),
            with_limits=self._settings.rate_limit is not None,
            with_hosts=bool(self._settings.allowed_hosts),
            root_path=root_path,
        )
        for extension in self.extensions:
            openapi.extend(document, extension())
        return document

    def _server_routes(self) -> list[Route]:
        """Of the process and of all models."""
        return [*status.server_routes(), *models.routes(self._models)]

    def _routes_of(self, named: NamedModel) -> list[Route]:
        """Below /models/{name}; made once for each change."""
        made, routes = self._tables.get(named.name, (None, []))
        if made is not named:
            routes = [
                *models.named_routes(self._models, self._changes, named, self._metrics),
                *_live_routes(named),
            ]
            for version, model in named.models.items():
                routes += [
                    route.below(f"/versions/{version}", "/versions/{version}")
                    for route in _model_routes(model)
                ]
            routes = [route.below(f"/models/{named.name}", "/models/{name}") for route in routes]
            self._tables[named.name] = named, routes
        return routes

    def _default_routes(self) -> list[Route]:
        """Those without a name in their path."""
        named = self._models.default
        return models.several_routes(self._models) if named is None else _live_routes(named)

    def _document_routes(self, named: NamedModel) -> list[Route]:
        """Of one name: those of its live version, also without the name where it is the default
        one; what is told of it, and its versions.
        """
        routes = _model_routes(named.live)
        inner = [*routes, *models.told_routes(self._models, named, self._metrics)]
        inner += models.version_operations(named)
        below = [route.below(f"/models/{named.name}", "/models/{name}") for route in inner]
        below = [openapi.tagged(route, named.name) for route in below]
        return below if named is not self._models.default else [*routes, *below]


def _live_routes(named: NamedModel) -> list[Route]:
    """Of the live version, and of the one that is tried beside it."""
    routes, trial = _model_routes(named.live), named.trial
    if trial is None or trial.plan.kind == "shadow":
        return routes
    return models.shared(routes, records.routes(trial.tried), trial.is_for_tried)


def _model_routes(model: ServedModel) -> list[Route]:
    return [*records.routes(model), *status.routes(model)]

"""What is told of a model to those who ask: its features, its answers, and where it comes from."""

from typing import Any

from tabserve.served import ServedModel


def metadata_of(model: ServedModel) -> dict[str, Any]:
    """Raises nothing, and says what it can while the model is loading."""
    manifest = model.manifest
    record = model.decoder.json_schema()
    properties, required = record["properties"], record.get("required", [])
    sent_as = model.decoder.wire_names
    return {
        "model": manifest.name,
        "model_version": manifest.version,
        "model_type": manifest.model_type,
        "features": [
            {
                "name": feature.name,
                "type": feature.type,
                "nullable": feature.takes_null and _allows_null(properties[sent_as[feature.name]]),
                "required": sent_as[feature.name] in required,
                "default": feature.default,
                "imputed": feature.imputed,
                "categories": feature.categories,
                "unknown": feature.unknown,
                "observed": feature.observed,
                "range": feature.range,
                "constraints": properties[sent_as[feature.name]],
            }
            for feature in manifest.signature.features
        ],
        "output": model.renderer.json_schema()["properties"],
        "training_date": manifest.training_date.isoformat(),
        "metrics": [metric.model_dump() for metric in manifest.metrics],
        "engine": manifest.engine,
        "parity": manifest.parity.model_dump(),
        "libraries": manifest.libraries,
    }


def _allows_null(schema: dict[str, Any]) -> bool:
    """Whether null is valid by a field's JSON Schema."""
    if "anyOf" in schema:
        return any(_allows_null(part) for part in schema["anyOf"])
    if "enum" in schema:
        return None in schema["enum"]
    return schema.get("type", "null") == "null" and not schema.keys() & {"$ref", "const"}

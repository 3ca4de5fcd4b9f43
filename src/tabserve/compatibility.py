"""What is another from one version to the next, and which of it breaks the clients of the first.

Breaking is what makes a request that was answered be refused, or takes from an answer what clients
read, or tells them what they do not know.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tabserve.artifact import Manifest
from tabserve.output import Output, Renderer, Target, class_name
from tabserve.request_class import class_of
from tabserve.signature import EXACT_INTEGER_LIMIT, Feature, Signature
from tabserve.validation import range_text

# So many names of a list are told.
_MOST_NAMES = 5

# Parts of a feature that have a rule of their own here, and parts that no client can notice. A
# change of any other part counts as breaking until it has a rule too.
_COMPARED = frozenset(
    {"name", "type", "nullable", "required", "default", "dtype", "categories", "unknown", "range"}
)
_UNSEEN = frozenset({"missing", "imputed", "minimum", "maximum", "earliest", "latest", "typical"})


@dataclass(frozen=True)
class Change:
    """place: such as "features.tenure_months" or "output.probability"."""

    place: str
    text: str
    breaking: bool


def changes(old: Manifest, new: Manifest) -> list[Change]:
    """From `old`, whose clients exist, to `new`: inputs first, the breaking ones first of each."""
    inputs = _inputs(old.signature, new.signature)
    answers = _answers(old, new)
    return [
        change
        for found in (inputs, answers)
        for change in sorted(found, key=lambda change: not change.breaking)
    ]


def breaking(old: Manifest, new: Manifest) -> list[Change]:
    return [change for change in changes(old, new) if change.breaking]


def _inputs(old: Signature, new: Signature) -> Iterator[Change]:
    before = {feature.name: feature for feature in old.features}
    after = {feature.name: feature for feature in new.features}
    for name in before:
        if name not in after:
            refused = new.extra_fields == "refuse"
            what = "a request that has it is refused" if refused else "it is ignored where sent"
            yield Change(f"features.{name}", f"removed; {what}", refused)
    for name, feature in after.items():
        if name in before:
            for text, is_breaking in _feature(before[name], feature):
                yield Change(f"features.{name}", text, is_breaking)
        else:
            required = _is_required(feature)
            what = "a request without it is refused" if required else "it may be left out"
            yield Change(f"features.{name}", f"added ({feature.type}); {what}", required)
    if old.extra_fields != new.extra_fields:
        text = f"extra fields: {new.extra_fields}, before {old.extra_fields}"
        yield Change("extra_fields", text, new.extra_fields == "refuse")


def _feature(old: Feature, new: Feature) -> Iterator[tuple[str, bool]]:
    """What is said of it, and whether that breaks."""
    if old.type != new.type:
        widened = (old.type, new.type) == ("integer", "number")
        yield f"takes {new.type}, before {old.type}", not widened
        return
    if old.takes_null != new.takes_null:
        yield "may be null now" if new.takes_null else "may be null no longer", not new.takes_null
    if _is_required(old) != _is_required(new):
        required = _is_required(new)
        yield "must be sent now" if required else "may be left out now", required
    if old.default != new.default and None not in (old.default, new.default):
        yield "another default stands in for null", False
    yield from _bounds(old, new)
    yield from _range(old, new)
    yield from _categories(old, new)
    for part in sorted(type(new).model_fields.keys() - _COMPARED - _UNSEEN):
        found, expected = getattr(new, part), getattr(old, part)
        if found != expected:
            yield f"{part}: {found!r}, before {expected!r}", True


def _is_required(feature: Feature) -> bool:
    (field,) = class_of(Signature(features=(feature,))).model_fields.values()
    return field.is_required()


def _bounds(old: Feature, new: Feature) -> Iterator[tuple[str, bool]]:
    """Of the dtype: an int8 takes less than an int64, dates in nanoseconds end in 2262."""
    if new.type not in ("integer", "number", "datetime"):
        return
    (least, largest), (low, high) = map(_taken, (old, new))
    if (least, largest) != (low, high):
        is_narrower = low > least or high < largest
        yield f"takes {low} to {high}, before {least} to {largest}", is_narrower


def _taken(feature: Feature) -> tuple[Any, Any]:
    """Days of dates. Numbers beyond what a float holds exactly are not compared: they follow from
    whether the feature may be null.
    """
    if feature.type == "datetime":
        first, last = feature.moments
        return first.astype("datetime64[D]"), last.astype("datetime64[D]")
    least, largest = feature.bounds
    return max(least, -EXACT_INTEGER_LIMIT), min(largest, EXACT_INTEGER_LIMIT)


def _range(old: Feature, new: Feature) -> Iterator[tuple[str, bool]]:
    """What is refused of it; ranges that are just told or warned of break nothing."""
    if new.range == "refuse":
        ends = _refused_below_and_above(old), _refused_below_and_above(new)
        (least, largest), (low, high) = ends
        is_narrower = (low is not None and (least is None or low > least)) or (
            high is not None and (largest is None or high < largest)
        )
        if ends[0] != ends[1]:
            yield f"refuses what is not {range_text(new)}", bool(is_narrower)
    elif old.range == "refuse":
        yield f"refuses no longer what is not {range_text(old)}", False


def _refused_below_and_above(feature: Feature) -> tuple[Any, Any]:
    return feature.limits if feature.range == "refuse" else (None, None)


def _categories(old: Feature, new: Feature) -> Iterator[tuple[str, bool]]:
    before, after = _refuses_unknown(old), _refuses_unknown(new)
    if before != after:
        yield (f"refuses unknown categories{'' if after else ' no longer'}", after)
    # As sets of keys that tell 1 and True apart.
    known = {(type(value), value): value for value in old.categories or ()}
    known_now = {(type(value), value): value for value in new.categories or ()}
    if lost := [value for key, value in known.items() if key not in known_now]:
        # Where others are not refused, a lost one is answered, if by another number.
        yield f"knows {_names(lost)} no longer", before and after
    if gained := [value for key, value in known_now.items() if key not in known]:
        yield f"knows {_names(gained)} now", False


def _refuses_unknown(feature: Feature) -> bool:
    return feature.categories is not None and feature.unknown == "refuse"


def _answers(old: Manifest, new: Manifest) -> Iterator[Change]:
    schemas = [Renderer(version.targets, version.output).json_schema() for version in (old, new)]
    yield from _schema(schemas[0], schemas[1], "output")
    if old.output is not None and new.output is not None and old.output.name == new.output.name:
        yield from _declared(old, new, old.output, new.output)


def _schema(old: dict[str, Any], new: dict[str, Any], place: str) -> Iterator[Change]:
    before, after = old.get("properties", {}), new.get("properties", {})
    for name, schema in before.items():
        if name in after:
            yield from _schema(schema, after[name], f"{place}.{name}")
        else:
            yield Change(f"{place}.{name}", "removed", True)
    for name in after:
        if name not in before:
            yield Change(f"{place}.{name}", "added", False)
    if old.get("type") != new.get("type"):
        yield Change(place, f"is {_kind(new)}, before {_kind(old)}", True)
    if "enum" in old and "enum" in new:
        gained = [value for value in new["enum"] if value not in old["enum"]]
        lost = [value for value in old["enum"] if value not in new["enum"]]
        if gained:
            yield Change(place, f"may be {_names(gained)}, which clients do not know", True)
        if lost:
            yield Change(place, f"is never {_names(lost)} now", False)


def _kind(schema: dict[str, Any]) -> str:
    return str(schema.get("type", "a class"))


def _declared(old: Manifest, new: Manifest, before: Output, after: Output) -> Iterator[Change]:
    place = f"output.{after.name}"
    kinds = old.targets[0].kind, new.targets[0].kind
    if kinds[0] != kinds[1]:
        names = {"classes": "a probability", "number": "the model's number"}
        yield Change(place, f"is {names[kinds[1]]}, before {names[kinds[0]]}", True)
    elif kinds[0] == "classes":
        was, now = _positive(before, old.targets[0]), _positive(after, new.targets[0])
        if was != now:
            yield Change(place, f"is the probability of {now!r}, before of {was!r}", True)
    if before.round != after.round:
        yield Change(place, f"{_decimals(after)}, before {_decimals(before)}", False)
    if before.bands and after.bands and before.bands.edges != after.bands.edges:
        edges, earlier = (", ".join(f"{x:g}" for x in each.edges) for each in
                          (after.bands, before.bands))  # fmt: skip
        yield Change(f"output.{after.bands.name}", f"edges {edges}, before {earlier}", False)


def _positive(declared: Output, target: Target) -> str:
    return class_name(target.classes[1] if declared.positive is None else declared.positive)


def _decimals(declared: Output) -> str:
    return "not rounded" if declared.round is None else f"rounded to {declared.round} places"


def _names(values: list[Any]) -> str:
    more = f" and {len(values) - _MOST_NAMES} more" if len(values) > _MOST_NAMES else ""
    return ", ".join(repr(value) for value in values[:_MOST_NAMES]) + more

"""Choosing the golden rows of a sample, and what the original model says of them."""

from collections.abc import Callable
from typing import Any

import numpy as np

from tabserve import parity
from tabserve.artifact import GoldenRows
from tabserve.dates import texts_of_dates
from tabserve.errors import InvalidInput, MissingExtra, PackError
from tabserve.signature import Feature, Signature
from tabserve.types import Engine, Outputs, concatenate

try:
    import pandas as pd
except ImportError as error:
    raise MissingExtra(error.name or "pandas", "sklearn") from None

# Enough to meet every branch that a sample shows; each is computed alone at every start, which is
# some milliseconds a row.
N_SAMPLED = 64
MOST = 200
# Of a wide table fewer: so many values in all.
_MOST_VALUES = 100_000


def golden_rows(
    original: Engine, outputs_of: Callable[[Any], Outputs], sample: Any, signature: Signature
) -> tuple[Signature, GoldenRows]:
    """Rows of the sample with the original model's outputs, and the signature that they prove.

    outputs_of: what it says of the very rows of the sample.
    In it a feature may be null only where the model takes that.
    Raises PackError for a sample that the API would refuse, an answer that is not finite, and a
    policy that the model cannot keep.
    """
    golden = _of_the_sample(outputs_of, sample, signature)
    signature, golden = _with_nulls(original, signature, golden)
    _refuse_failing_policies(original, signature, golden)
    return signature, golden


def _of_the_sample(
    outputs_of: Callable[[Any], Outputs], sample: Any, signature: Signature
) -> GoldenRows:
    """Rows of the sample, with what the original model says of the very same frame."""
    sample = _taken(sample, signature)
    chosen = sample.iloc[_positions(sample)]
    rows = _records(chosen, signature)
    try:
        signature.columns({name: [row[name] for row in rows] for name in chosen.columns})
    except InvalidInput as error:
        found = error.problems[0]
        raise PackError(
            f"The sample data has a value that the API would refuse, in {found['loc'][1]}: "
            f"{found['msg']}. Sample the data that the model was fitted on, or say with --unknown "
            "what becomes of a category that it does not know."
        ) from None
    outputs = outputs_of(chosen)
    _refuse_not_finite(outputs)
    return GoldenRows(rows=rows, outputs=outputs)


def _taken(sample: Any, signature: Signature) -> Any:
    """The rows within the declared ranges, and without a missing value where a default stands in.

    Raises PackError where there is none.
    """
    kept = np.ones(len(sample), dtype=bool)
    for feature in signature.features:
        column = sample[feature.name]
        if feature.default is not None:
            kept &= column.notna().to_numpy()
        if feature.range == "refuse":
            values = {feature.name: column.to_numpy()}
            kept &= Signature(features=(feature,)).checked(values).is_good
    if not kept.any():
        raise PackError(
            "No row of the sample data is within the declared ranges and without a missing value "
            "where a default stands in."
        )
    return sample if kept.all() else sample[kept]


_NEVER_NULL = {"nullable": False, "required": True, "imputed": "silent"}


def _with_nulls(
    original: Engine, signature: Signature, golden: GoldenRows
) -> tuple[Signature, GoldenRows]:
    """With a golden row more for each feature that may be null and in the sample never is; of very
    many, several share a row.

    A feature may not be null after all where the model fails on that row.
    """
    asked = [
        feature.name
        for feature in signature.features
        if feature.nullable and all(row[feature.name] is not None for row in golden.rows)
    ]
    rows, outputs, never = list(golden.rows), [golden.outputs], set()
    size = -(-len(asked) // _most(len(signature.features))) or 1
    groups = [asked[start : start + size] for start in range(0, len(asked), size)]
    while groups:
        group = groups.pop(0)
        row = golden.rows[0] | dict.fromkeys(group)
        answer = _attempt(original, signature, row)
        if answer is not None:
            rows.append(row)
            outputs.append(answer)
        elif len(group) == 1:
            never.add(group[0])
        else:
            middle = len(group) // 2
            groups = [group[:middle], group[middle:], *groups]
    # Made anew: a copy would keep what was derived from the old one.
    features = [
        Feature(**feature.model_dump() | _NEVER_NULL) if feature.name in never else feature
        for feature in signature.features
    ]
    proven = Signature(
        features=tuple(features), layout=signature.layout, extra_fields=signature.extra_fields
    )
    return proven, GoldenRows(rows=rows, outputs=concatenate(outputs))


def _refuse_failing_policies(original: Engine, signature: Signature, golden: GoldenRows) -> None:
    """A policy that the model cannot keep would be an error 500 for each such request."""
    for feature in signature.features:
        if feature.unknown == "missing" and not feature.takes_null:
            raise PackError(
                f"Unknown categories of {feature.name} were to become missing values, but the "
                "model takes none there."
            )
        if feature.unknown in ("allow", "warn") and feature.stranger is not None:
            row = golden.rows[0] | {feature.name: feature.stranger}
            if _attempt(original, signature, row) is None:
                raise PackError(
                    f"Unknown categories of {feature.name} were to be allowed, but the model fails "
                    'on one; give its encoder handle_unknown="ignore", or leave the policy out.'
                )


def _attempt(original: Engine, signature: Signature, row: dict[str, Any]) -> Outputs | None:
    try:
        outputs = original.predict(parity.columns_of(signature, [row]))
        _refuse_not_finite(outputs)
    except Exception:  # noqa: BLE001 - whatever a library raises: the model cannot take the row
        return None
    return outputs


def _positions(sample: Any) -> list[int]:
    """Evenly spread rows, and those with the ends, the missing values and each common category."""
    n_rows, most = len(sample), _most(sample.shape[1])
    n_spread = min(N_SAMPLED, n_rows, most)
    positions = dict.fromkeys(np.linspace(0, n_rows - 1, n_spread).round().astype(int).tolist())
    for name in sample.columns:
        if len(positions) >= most:  # of a wide table at once
            break
        column = sample[name].reset_index(drop=True)
        missing = column[column.isna()].index[:1].tolist()
        present = column.dropna()
        if pd.api.types.is_numeric_dtype(present) and len(present):
            ends = [present.idxmin(), present.idxmax()]
        else:
            ends = present.drop_duplicates().index[:20].tolist()
        positions |= dict.fromkeys([*missing, *map(int, ends)])
    return list(positions)[:most]


def _most(n_features: int) -> int:
    """Golden rows of a kind, so that a wide model too is proven in a second or two."""
    return min(MOST, max(N_SAMPLED // 2, _MOST_VALUES // n_features))


def _records(sample: Any, signature: Signature) -> list[dict[str, Any]]:
    """The rows as a client would send them: missing values null, integers without a fraction."""
    listed = {}
    for feature in signature.features:
        column = sample[feature.name]
        if feature.type == "datetime":
            listed[feature.name] = texts_of_dates(column)
            continue
        to_type = bool if feature.type == "boolean" else lambda value: value
        listed[feature.name] = [
            None if missing else to_type(value)
            for value, missing in zip(column.astype(object).tolist(), column.isna(), strict=True)
        ]
    return [dict(zip(listed, values, strict=True)) for values in zip(*listed.values(), strict=True)]


def _refuse_not_finite(outputs: Outputs) -> None:
    for part, array in outputs.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise PackError(
                f"The model's {part} is not a finite number for some rows of the sample data; "
                "JSON cannot say that, and no server should."
            )

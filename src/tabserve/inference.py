"""What a fitted estimator and a sample of its data say together about its signature."""

from collections.abc import Iterator, Mapping
from typing import Any, Literal

import numpy as np

from tabserve import boosters
from tabserve.dates import refuse_inexact_dates, texts_of_dates, without_zone
from tabserve.errors import MissingExtra, PackError
from tabserve.feature import Type, Unknown
from tabserve.sample import Layout, fitted_names, takes_text
from tabserve.signature import MAX_CATEGORIES, MAX_FEATURES, Feature, Scalar, Signature
from tabserve.targets import final_step

try:
    import pandas as pd
except ImportError:
    raise MissingExtra("pandas", "sklearn") from None

_IMPUTERS = ("SimpleImputer", "KNNImputer", "IterativeImputer")
_VECTORIZERS = ("CountVectorizer", "TfidfVectorizer", "HashingVectorizer")
# Attributes that hold a fitted estimator, or several, which take the same columns.
_WRAPPED = ("best_estimator_", "estimator_", "regressor_", "classifier_", "estimator")
_WRAPPED_LISTS = ("estimators_", "calibrated_classifiers_")


def signature_of(
    model: Any,
    sample: Any,
    layout: Layout,
    unknown: Mapping[str, Unknown],
    extra_fields: Literal["refuse", "ignore"],
) -> Signature:
    """model: None where it knows nothing of its features. sample: as `model_input` gives it.
    unknown: the policy of a feature where not "refuse".
    """
    names = list(sample.columns)
    strangers = sorted(set(unknown) - set(names))
    if strangers:
        raise PackError(
            f"A policy names {', '.join(strangers)}, which is no feature; the features are "
            f"{', '.join(map(str, names))}."
        )
    if len(names) > MAX_FEATURES:
        raise PackError(f"The model has {len(names)} features; expected at most {MAX_FEATURES}.")
    known = _Knowledge() if model is None else _known(model, names)
    features = tuple(_feature(sample[name], known, unknown.get(name, "refuse")) for name in names)
    return Signature(features=features, layout=layout, extra_fields=extra_fields)


def usual_rows(model: Any) -> Any:
    """A row made of what the model itself knows: a category of each encoder, text where text is
    taken apart, else 0. Raises PackError where it does not know enough.
    """
    if takes_text(model):
        return pd.DataFrame({"text": ["text"]})
    names = fitted_names(model, [])
    if names is None:
        width = getattr(model, "n_features_in_", None)
        if width is None:
            raise PackError(
                f"The {type(model).__name__} does not know what columns it takes; give sample "
                "rows with --data."
            )
        names = [f"x{i}" for i in range(width)]
    own = booster_categories(model, [])
    if _has_categories_of_its_own(model) and not own:
        raise PackError(
            f"The {type(model).__name__} was fitted on categories, and does not say of which "
            "columns; give sample rows with --data."
        )
    known = _known(model, names)
    usual: dict[str, Any] = {
        name: known.categories[name][:1]
        if known.categories.get(name)
        else ["text" if name in known.text else 0.0]
        for name in names
    }
    usual |= {name: pd.Categorical(values[:1], categories=values) for name, values in own.items()}
    return pd.DataFrame(usual)


def _has_categories_of_its_own(model: Any) -> bool:
    """A booster that ends it, which has them as pandas' categories or as columns of text."""
    model = final_step(model)
    if hasattr(model, "get_cat_feature_indices"):
        return bool(model.get_cat_feature_indices())
    if hasattr(model, "get_booster"):
        return "c" in (model.get_booster().feature_types or ())
    return bool(getattr(getattr(model, "booster_", None), "pandas_categorical", None))


def text_categories(model: Any) -> dict[str, tuple[Scalar, ...] | None]:
    """By column of text, the categories that the model's encoders know, or a booster; None where
    any text is taken apart.
    """
    known = _known(model, list(getattr(model, "feature_names_in_", ())))
    every = known.categories | booster_categories(model, [])
    return dict.fromkeys(known.text) | {
        name: categories
        for name, categories in every.items()
        if categories and all(isinstance(value, str) for value in categories)
    }


def booster_categories(model: Any, columns: list[Any]) -> dict[str, tuple[Scalar, ...]]:
    """By column, those of pandas' dtype `category` that a booster was fitted on.

    columns: as `fitted_names` takes them.
    """
    names = fitted_names(model, columns) if boosters.is_booster(model) else None
    if names is None:
        return {}
    by_place = zip(names, boosters.categories(model), strict=False)
    return {name: tuple(values) for name, values in by_place if values}


def _known(model: Any, names: list[str]) -> "_Knowledge":
    known = _Knowledge()
    for estimator, columns, unchanged in _walk(model, names):
        known.learn(estimator, columns, unchanged)
    return known


class _Knowledge:
    """By column: the categories of its encoder, whether an imputer takes its missing values, and
    whether it is text that is taken apart.
    """

    def __init__(self) -> None:
        self.categories: dict[str, tuple[Scalar, ...]] = {}
        self.nullable: set[str] = set()
        self.text: set[str] = set()

    def learn(self, estimator: Any, columns: list[str], unchanged: bool) -> None:
        if _is_imputer(estimator) and _is_missing(getattr(estimator, "missing_values", None)):
            self.nullable.update(columns)
        if type(estimator).__name__ in _VECTORIZERS:
            self.text.update(columns)
        categories = getattr(estimator, "categories_", None)
        if unchanged and isinstance(categories, list) and len(categories) == len(columns):
            for column, values in zip(columns, categories, strict=True):
                listed = values.tolist()
                present = tuple(value for value in listed if not _is_missing(value))
                self.categories.setdefault(column, present)
                if len(present) < len(listed):
                    self.nullable.add(column)


def _walk(
    estimator: Any, columns: list[str], unchanged: bool = True
) -> Iterator[tuple[Any, list[str], bool]]:
    """Every fitted step, with the input columns that reach it one to one, and whether with their
    own values (a scaler keeps the columns and changes the values).
    """
    if getattr(estimator, "n_features_in_", len(columns)) != len(columns):
        return
    yield estimator, columns, unchanged
    if hasattr(estimator, "transformers_"):
        for _, step, selected in estimator.transformers_:
            yield from _walk(step, _selected(columns, selected), unchanged)
    for _, step in getattr(estimator, "transformer_list", ()):
        yield from _walk(step, columns, unchanged)
    for inner in _wrapped(estimator):
        yield from _walk(inner, columns, unchanged)
    for _, step in getattr(estimator, "steps", ()):
        yield from _walk(step, columns, unchanged)
        made = _columns_made(step, columns)
        if made[: len(columns)] != columns:
            break
        columns = made  # with what an imputer's indicators add
        unchanged = unchanged and (step == "passthrough" or _is_imputer(step))


def _wrapped(estimator: Any) -> Iterator[Any]:
    for attribute in _WRAPPED:
        inner = getattr(estimator, attribute, None)
        if hasattr(inner, "n_features_in_"):  # fitted: many keep the unfitted one beside it
            yield inner
    if getattr(estimator, "bootstrap_features", False):
        return  # each takes columns in an order of its own
    for attribute in _WRAPPED_LISTS:
        inner = getattr(estimator, attribute, None)
        if isinstance(inner, list):
            yield from inner


def _is_imputer(estimator: Any) -> bool:
    return type(estimator).__name__ in _IMPUTERS


def _columns_made(step: Any, columns: list[str]) -> list[str]:
    """Names of the step's output, where those of its input keep theirs; none where it has none."""
    if step == "passthrough":
        return columns
    try:
        return list(step.get_feature_names_out(columns))
    except (AttributeError, ValueError, TypeError):
        return []


def _selected(columns: list[str], selected: Any) -> list[str]:
    """The names behind a ColumnTransformer's column specification."""
    index = pd.Index(columns)
    if isinstance(selected, str):
        return [selected]
    if isinstance(selected, slice):
        if isinstance(selected.start, str) or isinstance(selected.stop, str):
            selected = index.slice_indexer(selected.start, selected.stop)
        return list(index[selected])
    picked = np.atleast_1d(selected)
    if picked.dtype.kind in "OUT":
        return [str(name) for name in picked]
    return list(index[picked]) if picked.size else []


def _is_missing(value: Any) -> bool:
    return value is None or value is pd.NA or value != value


def _feature(column: Any, known: _Knowledge, unknown: Unknown) -> Feature:
    name = str(column.name)
    kind = _type(column)
    nullable = name in known.nullable or bool(column.isna().any())
    categories = known.categories.get(name)
    if categories is None and column.dtype == "category":
        categories = tuple(column.cat.categories.tolist())
    if len(categories or ()) > MAX_CATEGORIES:
        raise PackError(
            f"The feature {name} has {len(categories or ())} categories; expected at most "
            f"{MAX_CATEGORIES}. Give its encoder max_categories, or hash it."
        )
    present = column.dropna()
    numeric = kind in ("integer", "number") and column.dtype != "category" and len(present) > 0
    ends: list[Any] = [None, None]
    if kind == "datetime":
        refuse_inexact_dates(column)
    if kind == "datetime" and len(present):
        ends = texts_of_dates(present.sort_values().iloc[[0, -1]])
    return Feature(
        name=name,
        type=kind,
        nullable=nullable,
        dtype=str(column.dtype),
        missing="none" if _holds_none(column) else "nan",
        categories=categories,
        unknown=unknown,
        minimum=float(present.min()) if numeric else None,
        maximum=float(present.max()) if numeric else None,
        earliest=ends[0],
        latest=ends[1],
        typical=_typical(present, kind, categories),
    )


def _holds_none(column: Any) -> bool:
    return bool(column.dtype == object) and any(v is None for v in column[column.isna()])


def with_types(sample: Any, declared: Mapping[str, Type]) -> Any:
    """The sample with columns of the declared types, where its own are others.

    Raises PackError for a column that cannot be so.
    """
    changed = {
        name: _with_type(sample[name], wanted)
        for name, wanted in declared.items()
        if name in sample.columns
    }
    return sample.assign(**changed) if changed else sample


def _with_type(column: Any, wanted: Type) -> Any:
    found = _type(column)
    present = column.dropna()
    if found == wanted or column.dtype == "category":
        fits = found == wanted
    elif (found, wanted) == ("integer", "number"):
        return column.astype("float64")
    elif (found, wanted) == ("number", "integer"):
        fits = bool((present == np.floor(present)).all())  # the model's dtype stays
    elif wanted == "boolean" and found in ("integer", "number"):
        fits = column.notna().all() and set(present) <= {0, 1}
    elif (found, wanted) == ("string", "datetime"):
        try:
            dates = pd.to_datetime(column, format="ISO8601", utc=True)
            refuse_inexact_dates(dates)
            return without_zone(dates)
        except ValueError:
            fits = False
    else:
        fits = False
    if not fits:
        raise PackError(
            f"The column {column.name} was declared {wanted}, and the sample has {found} there "
            f"(dtype {column.dtype}) that cannot be read as that."
        )
    return column


# What pandas finds in a column of Python objects.
_TYPE_OF_OBJECTS: dict[str, Type] = {
    "string": "string",
    "empty": "string",
    "boolean": "boolean",
    "integer": "integer",
    "floating": "number",
    "mixed-integer-float": "number",
}


def _type(column: Any) -> Type:
    types = pd.api.types
    values = column.cat.categories if column.dtype == "category" else column
    dtype = values.dtype
    if types.is_bool_dtype(dtype):
        return "boolean"
    if types.is_integer_dtype(dtype):
        return "integer"
    if types.is_float_dtype(dtype):
        return "number"
    if types.is_datetime64_any_dtype(dtype) and column.dtype != "category":
        return "datetime"
    kind = pd.api.types.infer_dtype(values, skipna=True)
    if kind in _TYPE_OF_OBJECTS:
        return _TYPE_OF_OBJECTS[kind]
    raise PackError(
        f"Expected numbers, booleans, dates or text in the column {column.name}, got {kind} "
        f"(dtype {column.dtype}). Convert it before fitting, or inside the pipeline."
    )


def _typical(present: Any, kind: str, categories: tuple[Scalar, ...] | None) -> tuple[Scalar, ...]:
    """Up to three usual values, for examples; never a whole row, and no free text of anybody's."""
    if len(present) == 0:
        return ()
    if kind == "string" and categories is None:
        return ("text",)
    if kind == "datetime":
        return tuple(texts_of_dates(present.quantile([0.5, 0.25, 0.75], interpolation="nearest")))
    if kind in ("integer", "number") and categories is None:
        # As pandas' own does, which took half of the time for the signature of a wide table.
        numbers = present.to_numpy(dtype="float64")
        values: list[Scalar] = np.quantile(numbers, [0.5, 0.25, 0.75], method="nearest").tolist()
        return tuple(int(value) for value in values) if kind == "integer" else tuple(values)
    return tuple(present.astype(object).value_counts().index[:3].tolist())

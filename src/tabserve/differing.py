"""`tabserve diff`: what is another in one artefact than in the other."""

from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict
from rich.console import Console
from rich.text import Text

from tabserve import compatibility, loading, parity, repository, telling
from tabserve.artifact import Artifact
from tabserve.errors import ArtifactError
from tabserve.rollout import common_labels, common_numbers
from tabserve.types import Array, Outputs


class Change(BaseModel):
    model_config = ConfigDict(extra="forbid")

    place: str
    text: str
    breaking: bool


class Answers(BaseModel):
    """Of one model on the golden rows of the other, against that one's own outputs.

    rows: whose golden rows. why_not: where they could not be compared.
    equal_labels: the share of rows with the same label; None where there are no labels.
    mean_difference, largest_difference: of the numbers; None where there are none.
    """

    model_config = ConfigDict(extra="forbid")

    rows: Literal["first", "second"]
    n_rows: int = 0
    why_not: str | None = None
    equal_labels: float | None = None
    mean_difference: float | None = None
    largest_difference: float | None = None


class Differences(BaseModel):
    """facts: what is said of both, first and second, by its name."""

    model_config = ConfigDict(extra="forbid")

    changes: list[Change]
    facts: dict[str, tuple[str, str]]
    answers: list[Answers]

    @property
    def exit_code(self) -> int:
        """2 where a change breaks clients, 1 where anything else differs, 0 where nothing does."""
        if any(change.breaking for change in self.changes):
            return 2
        same = all(one == other for one, other in self.facts.values())
        return 0 if same and not self.changes and all(map(_is_equal, self.answers)) else 1


def diff(first: str, second: str, *, allow_pickle: bool, allow_code: bool) -> Differences:
    """Raises ArtifactError where one is no artefact; a model that cannot be loaded is told of."""
    old, new = repository.find(first), repository.find(second)
    options = {"allow_pickle": allow_pickle, "allow_code": allow_code}
    return Differences(
        changes=[
            Change(place=change.place, text=change.text, breaking=change.breaking)
            for change in compatibility.changes(old.manifest, new.manifest)
        ],
        facts=_facts(old, new),
        answers=[_answers("first", old, new, options), _answers("second", new, old, options)],
    )


def _facts(old: Artifact, new: Artifact) -> dict[str, tuple[str, str]]:
    told = [_told(artifact) for artifact in (old, new)]
    names = dict.fromkeys([*told[0], *told[1]])
    return {name: (told[0].get(name, "none"), told[1].get(name, "none")) for name in names}


def _told(artifact: Artifact) -> dict[str, str]:
    manifest = artifact.manifest
    facts = {
        "version": f"{manifest.name} {manifest.version}",
        "model": manifest.model_type,
        "trained": manifest.training_date.isoformat(timespec="seconds"),
        "engine": manifest.engine,
        "exactness": manifest.parity.shown_class,
    }
    facts |= {f"{m.name} on {m.data}": f"{m.value:.6g}" for m in manifest.metrics}
    facts |= {f"library {name}": version for name, version in manifest.libraries.items()}
    for name in manifest.files:
        try:
            facts[f"bytes of {name}"] = str(len(artifact.read(name)))
        except ArtifactError:
            facts[f"bytes of {name}"] = "altered"
    return facts


def _answers(
    whose: Literal["first", "second"], given: Artifact, other: Artifact, options: dict[str, Any]
) -> Answers:
    try:
        golden = given.golden()
        signature = other.manifest.signature
        names = [feature.name for feature in signature.features]
        rows = [{name: row[name] for name in names} for row in golden.rows]
        columns = parity.columns_of(signature, rows)
        found = loading.load(other, **options).engine.predict(columns)
    except KeyError as error:
        return Answers(rows=whose, why_not=f"The rows have no {error.args[0]}.")
    except Exception as error:  # noqa: BLE001 - whatever a library raises on a model is told
        return Answers(rows=whose, why_not=str(error).partition("\n")[0])
    numbers = common_numbers(given.manifest, other.manifest)
    labels = [part for part in common_labels(given.manifest, other.manifest) if part in found]
    if not numbers and not labels:
        return Answers(rows=whose, why_not="The answers are of other kinds.")
    return _compared(whose, golden.outputs, found, numbers, labels)


def _compared(
    whose: Literal["first", "second"],
    expected: Outputs,
    found: Outputs,
    numbers: list[str],
    labels: list[str],
) -> Answers:
    apart: list[Array] = [np.abs(found[part] - expected[part]).ravel() for part in numbers]
    everything = np.concatenate(apart) if apart else np.zeros(0)
    equal = [np.mean(found[part] == expected[part]) for part in labels]
    return Answers(
        rows=whose,
        n_rows=len(next(iter(expected.values()))),
        equal_labels=float(np.mean(equal)) if equal else None,
        mean_difference=float(everything.mean()) if len(everything) else None,
        largest_difference=float(everything.max()) if len(everything) else None,
    )


def _is_equal(answers: Answers) -> bool:
    return answers.why_not is None and (
        answers.equal_labels in (None, 1.0) and answers.largest_difference in (None, 0.0)
    )


def show(found: Differences, console: Console) -> None:
    rows = [(Text(""), Text("first", "bold"), Text("second", "bold"))]
    for name, (one, other) in found.facts.items():
        style = "" if one == other else "yellow"
        rows.append((Text(name), Text(one, style), Text(other, style)))
    telling.show_columns(rows, console)
    lines = []
    for change in found.changes:
        colour = "red" if change.breaking else "yellow"
        word = "breaking" if change.breaking else "change"
        lines.append(Text.assemble((word, colour), f" {change.place}: {change.text}"))
    for answers in found.answers:
        other = "second" if answers.rows == "first" else "first"
        lines.append(
            Text(f"The {other} on the golden rows of the {answers.rows}: {_sentence(answers)}")
        )
    for line in lines:
        console.print(line, soft_wrap=not console.is_terminal)


def _sentence(answers: Answers) -> str:
    if answers.why_not is not None:
        return f"not compared. {answers.why_not}"
    told = [f"{answers.n_rows} rows"]
    if answers.equal_labels is not None:
        told.append(f"{100 * answers.equal_labels:.1f} % of the labels equal")
    if answers.mean_difference is not None:
        told.append(f"mean difference {answers.mean_difference:.3g}")
        told.append(f"largest {answers.largest_difference:.3g}")
    return ", ".join(told)

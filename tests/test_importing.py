"""What is named as module:attr is found in the working directory, whatever the command was."""

import sys
from pathlib import Path

import pytest

from tabserve.errors import CannotImport
from tabserve.importing import imported


@pytest.mark.parametrize(("before", "after"), [([], [""]), ([""], [""]), (["HERE"], ["HERE"])])
def test_the_working_directory_is_looked_in_and_named_once(
    before: list[str], after: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"found_{len(before)}_{len(''.join(before))}"
    (tmp_path / f"{name}.py").write_text("answer = 42")
    monkeypatch.chdir(tmp_path)
    here = str(Path.cwd())
    elsewhere = [path for path in sys.path if path not in ("", here)]

    def named(paths: list[str]) -> list[str]:
        return [here if path == "HERE" else path for path in paths]

    monkeypatch.setattr(sys, "path", [*named(before), *elsewhere])

    assert imported(f"{name}:answer") == 42
    assert sys.path == [*named(after), *elsewhere]


def test_a_working_directory_that_is_gone_is_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with pytest.raises(CannotImport, match="Cannot import nowhere:model"):
        imported("nowhere:model")

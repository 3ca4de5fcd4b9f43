"""Which version is live, as the commands say it to files."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from tabserve import repository
from tabserve.cli import main
from tabserve.repository import LIVE
from tests.forging import edit_manifest


@pytest.fixture
def line(lines: Path, tmp_path: Path) -> Path:
    """The folder of a name with 1.0.0 and 2.0.0, which the test may change."""
    return Path(shutil.copytree(lines / "line", tmp_path / "models" / "line"))


@pytest.fixture
def tabserve(line: Path) -> Callable[..., str]:
    """Runs a command on it, which ends well; or with 2 and the sentence that is given back."""

    def run(*words: str, fails: bool = False) -> str:
        done = CliRunner().invoke(main, [*words, "--path", str(line.parent)])
        assert done.exit_code == (2 if fails else 0), done.output
        return done.output.strip()

    return run


def test_a_version_is_promoted_and_rolled_back_again_and_again(line: Path, tabserve: Any) -> None:
    shutil.copytree(line / "1.0.0", line / "0.9.0")
    edit_manifest(line / "0.9.0", lambda manifest: manifest.update(version="0.9.0"))

    for version in ("1.0.0", "0.9.0", "2.0.0"):
        assert tabserve("promote", "line", version) == f"line {version} is live."
        assert repository.find(line).manifest.version == version

    for version in ("0.9.0", "1.0.0", "2.0.0"):
        assert tabserve("rollback", "line") == f"line {version} is live."
        assert repository.live(line).version == version
    assert "was live before 2.0.0" in tabserve("rollback", "line", fails=True)


def test_where_nothing_was_promoted_a_rollback_goes_to_the_version_below(
    line: Path, tabserve: Any
) -> None:
    assert tabserve("rollback", "line") == "line 1.0.0 is live."
    assert repository.live(line).version == "1.0.0"


def test_what_is_promoted_twice_was_not_live_before_itself(line: Path, tabserve: Any) -> None:
    tabserve("promote", "line", "1.0.0")
    tabserve("promote", "line", "1.0.0")

    assert repository.live(line).previous == ("2.0.0",)


def altered(version: Path) -> None:
    (version / "model.skops").write_bytes(b"")


def broken(version: Path) -> None:
    edit_manifest(version, lambda manifest: manifest.update(lowered=None, engine="native"))
    (version / "golden.jsonl").unlink()


def another_output(version: Path) -> None:
    edit_manifest(version, lambda manifest: manifest.update(output={"name": "y"}))


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (altered, "model.skops was changed after packing"),
        (broken, "Cannot read"),
        (another_output, "line 1.0.0 would break the clients of 2.0.0"),
        (shutil.rmtree, "There is no version 1.0.0"),
    ],
)
def test_what_cannot_be_served_is_not_promoted(
    line: Path, tabserve: Any, spoil: Callable[[Path], None], sentence: str
) -> None:
    spoil(line / "1.0.0")

    assert sentence in tabserve("promote", "line", "1.0.0", fails=True)

    assert not (line / LIVE).exists()
    assert [path.name for path in line.iterdir() if path.name.startswith(".")] == []


def test_what_cannot_be_written_leaves_nothing_behind(line: Path, tabserve: Any) -> None:
    (line / LIVE).mkdir()
    assert "Is a directory" in tabserve("promote", "line", "1.0.0", fails=True)
    assert sorted(path.name for path in line.iterdir()) == ["1.0.0", "2.0.0", LIVE]


def test_clients_may_be_broken_where_they_know(line: Path, tabserve: Any) -> None:
    another_output(line / "1.0.0")

    tabserve("promote", "line", "1.0.0", "--allow-breaking")

    assert repository.live(line).allow_breaking


def test_a_name_that_is_not_there_is_refused(line: Path, tabserve: Any) -> None:
    assert "There is no model circle in" in tabserve("promote", "circle", "1.0.0", fails=True)


def test_a_folder_of_a_name_will_do_as_well(line: Path) -> None:
    moved = line.rename(line.parent / "mounted")
    done = CliRunner().invoke(main, ["promote", "line", "1.0.0", "--path", str(moved)])

    assert (done.exit_code, repository.live(moved).version) == (0, "1.0.0")


def test_a_version_is_tried_and_no_more(line: Path, tabserve: Any) -> None:
    told = tabserve("rollout", "line", "--canary", "1.0.0", "--share", "0.2", "--sticky", "x")
    assert told == "line 1.0.0: canary, 0.2 of the requests."
    assert tabserve("rollout", "line", "--shadow", "1.0.0") == (
        "line 1.0.0: shadow, 1 of the requests."
    )
    assert tabserve("rollout", "line", "--stop") == "line: the live version alone."


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "Expected a version for a canary or for a shadow"),
        (["--canary", "1.0.0", "--shadow", "1.0.0"], "one of them"),
        (["--canary", "2.0.0"], "2.0.0 of line is live already"),
        (["--canary", "3.0.0"], "There is no version 3.0.0"),
        (["--shadow", "1.0.0", "--sticky", "x"], "nothing can be sticky"),
        (["--stop"], "No version of line is tried"),
        (["--stop", "--canary", "1.0.0"], "Say --stop alone"),
        (["--stop", "--share", "0"], "Say --stop alone"),
    ],
)
def test_a_rollout_that_cannot_be_is_refused(
    tabserve: Any, words: list[str], sentence: str
) -> None:
    assert sentence in tabserve("rollout", "line", *words, fails=True)

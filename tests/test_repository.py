"""Which artefact a path means."""

import errno
import os
import shutil
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tabserve.errors import ArtifactError
from tabserve.repository import find, version_key


@pytest.fixture
def models(repository: Path, tmp_path: Path) -> Path:
    """A repository that the test may change."""
    return shutil.copytree(repository, tmp_path / "models")


def test_a_path_is_a_version_a_name_or_a_repository(models: Path) -> None:
    expected = models / "churn" / "1.2.3"
    for path in (expected, models / "churn", models, str(models)):
        assert find(path).folder == expected


def test_versions_are_ordered_as_semver_orders_them() -> None:
    ordered = [
        "0.9", "1.0.0-1", "1.0.0-2", "1.0.0-alpha", "1.0.0-alpha.1", "1.0.0-alpha.2",
        "1.0.0-alpha.10", "1.0.0-alpha.beta", "1.0.0-rc.1", "1.0.0", "1.0.1", "1.2", "1.2.3",
        "1.9", "1.10", "v2", "2.0.1", "v10",
    ]  # fmt: skip
    for lower, higher in pairwise(ordered):
        assert version_key(lower) < version_key(higher), (lower, higher)
    assert version_key("1.0rc1") < version_key("1.0") == version_key("1.0.0")
    assert version_key("2024-01-31") < version_key("2024-02-01")


def test_the_highest_version_is_chosen_and_unfinished_folders_are_not(models: Path) -> None:
    for version in ("1.10.0", "1.9.0", "2.0.0-rc.1", ".packing-9"):
        shutil.copytree(models / "churn" / "1.2.3", models / "churn" / version)
    (models / "churn" / "9.0.0").mkdir()
    assert find(models).folder.name == "2.0.0-rc.1"
    shutil.rmtree(models / "churn" / "2.0.0-rc.1")
    assert find(models).folder.name == "1.10.0"


def test_a_version_beside_the_names_is_refused(models: Path) -> None:
    stray = shutil.copytree(models / "churn" / "1.2.3", models / "1.3.0")
    with pytest.raises(
        ArtifactError, match=r"names \(churn\), and beside them versions \(1\.3\.0\)"
    ):
        find(models)
    stray.rename(models / "churn" / "1.3.0")
    assert find(models).folder.name == "1.3.0"


@pytest.mark.parametrize(("closed", "path"), [("taxi", "models"), ("churn/1.3.0", "models/churn")])
def test_a_folder_that_may_not_be_looked_into_is_told(
    models: Path, monkeypatch: pytest.MonkeyPatch, closed: str, path: str
) -> None:
    shutil.copytree(models / "churn" / "1.2.3", models / closed)
    close(models / closed, monkeypatch)
    with pytest.raises(ArtifactError, match=f"Cannot look into .*/{closed}: Permission denied"):
        find(models.parent / path)


def test_what_a_disk_keeps_for_itself_is_no_model(
    models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (models / "lost+found").mkdir()
    close(models / "lost+found", monkeypatch)
    assert find(models).folder == models / "churn" / "1.2.3"


def close(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As one of another user's is, also to root, as whom tests may run."""

    def refusing(found: Any, is_closed: Callable[[Path], bool]) -> Any:
        def asked(path: Any, *args: Any, **options: Any) -> Any:
            if isinstance(path, str | Path) and is_closed(Path(path)):
                raise PermissionError(errno.EACCES, "Permission denied", str(path))
            return found(path, *args, **options)

        return asked

    monkeypatch.setattr(os, "scandir", refusing(os.scandir, lambda path: path == folder))
    monkeypatch.setattr(os, "stat", refusing(os.stat, lambda path: path.parent == folder))


def test_several_names_are_listed(models: Path) -> None:
    shutil.copytree(models / "churn", models / "default")
    with pytest.raises(ArtifactError, match=r"several models; name one of .*/churn, .*/default\."):
        find(models)


@pytest.mark.parametrize("path", ["", "nothing", "file"])
def test_a_path_without_a_model_is_refused_with_a_sentence(tmp_path: Path, path: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtifactError, match=r"Expected a packed model at .*found none"):
        find(tmp_path / path)

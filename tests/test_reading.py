"""Files of an artefact are read without following anything out of its folder."""

import os
import shutil
from pathlib import Path

import pytest

from tabserve import reading
from tabserve.artifact import Artifact
from tabserve.errors import ArtifactError
from tabserve.repository import find


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    inside = tmp_path / "inside"
    inside.mkdir()
    (inside / "file").write_bytes(b"12345")
    (tmp_path / "secret").write_bytes(b"secret")
    return inside


def test_a_file_is_read_whole_up_to_its_limit(folder: Path) -> None:
    assert reading.read(folder, "file", 5) == b"12345"
    with pytest.raises(ArtifactError, match="has 5 bytes; expected at most 4"):
        reading.read(folder, "file", 4)


def test_no_link_is_followed(folder: Path) -> None:
    (folder / "link").symlink_to(folder.parent / "secret")
    with pytest.raises(ArtifactError, match="link is a link; tabserve follows none"):
        reading.read(folder, "link", 100)
    (folder.parent / "linked").symlink_to(folder)
    with pytest.raises(ArtifactError, match="linked is a link"):
        reading.read(folder.parent / "linked", "file", 100)


@pytest.mark.parametrize("kind", ["pipe", "folder", "device"])
def test_what_is_no_file_is_not_waited_for(folder: Path, kind: str) -> None:
    if kind == "pipe":
        os.mkfifo(folder / kind)
    elif kind == "folder":
        (folder / kind).mkdir()
    else:
        folder, kind = Path("/dev"), "zero"
    with pytest.raises(ArtifactError, match="is no ordinary file"):
        reading.read(folder, kind, 100)


def test_what_is_absent_is_an_os_error(folder: Path) -> None:
    with pytest.raises(FileNotFoundError):
        reading.read(folder, "absent", 100)


def test_versions_that_are_links_are_not_found_and_a_path_may_be_one(
    repository_copy: Path,
) -> None:
    name = repository_copy / "churn"
    (name / "9.9.9").symlink_to(name / "1.2.3")
    (repository_copy.parent / "live").symlink_to(name / "1.2.3")
    assert find(name).folder == name / "1.2.3"
    assert find(repository_copy.parent / "live").folder == (name / "1.2.3").resolve()
    with pytest.raises(ArtifactError, match=r"9\.9\.9 is a link"):
        Artifact(name / "9.9.9")


@pytest.fixture
def repository_copy(repository: Path, tmp_path: Path) -> Path:
    return shutil.copytree(repository, tmp_path / "models")

from pathlib import Path

import pytest

from tabserve import starting
from tabserve.errors import NewProjectError


def test_a_project_bears_its_name_everywhere(tmp_path: Path):
    folder = starting.start(tmp_path / "My Shop")
    names = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert names == {
        ".dockerignore", ".gitignore", "Dockerfile", "README.md", "pyproject.toml", "service.py",
        "my_shop_data.py", "my_shop_request.py", "train.py", "tests/conftest.py",
        "tests/test_api.py",
    }  # fmt: skip
    texts = [(folder / name).read_text() for name in names]
    assert not any("delivery" in text.lower() for text in texts)
    assert "class MyShopRequest" in (folder / "my_shop_request.py").read_text()


def test_its_dockerfile_mounts_the_folder_of_the_keys_which_a_revocation_replaces(tmp_path: Path):
    text = (starting.start(tmp_path / "shop") / "Dockerfile").read_text()
    assert "keys add alice --keys keys/keys.json" in text
    assert "-v ./keys:/keys:ro" in text
    assert ".json:" not in text


def test_an_empty_folder_may_be_there_already(tmp_path: Path):
    (tmp_path / "empty").mkdir()
    starting.start(tmp_path / "empty", name="churn")
    assert (tmp_path / "empty" / "churn_request.py").exists()


def test_a_folder_that_is_not_empty_is_left_alone(tmp_path: Path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(NewProjectError, match="Expected an empty folder or a new one"):
        starting.start(tmp_path, name="churn")
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize("name", ["2nd", "with space", "", "Ünï", "a" * 41])
def test_a_name_that_python_cannot_have_is_refused(tmp_path: Path, name: str):
    with pytest.raises(NewProjectError, match="Expected a name"):
        starting.start(tmp_path / "new" / (name or "1"), name=name or None)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("name", ["tabserve", "httpx", "pytest"])
def test_the_name_of_what_it_depends_on_is_refused(tmp_path: Path, name: str):
    with pytest.raises(NewProjectError, match=f"depends on {name}; say another name"):
        starting.start(tmp_path / name)
    assert list(tmp_path.iterdir()) == []

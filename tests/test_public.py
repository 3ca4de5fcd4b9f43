import pytest

import tabserve


def test_all_names_what_can_be_imported() -> None:
    namespace: dict[str, object] = {}

    exec("from tabserve import *", namespace)  # what a user would write

    del namespace["__builtins__"]
    assert sorted(namespace) == sorted(tabserve.__all__)


def test_every_public_name_has_its_home_and_no_other_name_has() -> None:
    homes = set(tabserve._HOMES) | {"__version__"}

    assert homes == set(tabserve.__all__)
    assert tabserve.__all__ == sorted(tabserve.__all__)


def test_what_is_not_there_is_said_so() -> None:
    with pytest.raises(AttributeError, match="module 'tabserve' has no attribute 'serve'"):
        tabserve.serve  # noqa: B018


def test_the_version_is_that_of_the_package() -> None:
    assert [part.isdecimal() for part in tabserve.__version__.split(".")] == [True] * 3

"""Whatever is typed, set or written into tabserve.toml ends with 2 and a sentence, if wrong."""

import os
from collections.abc import Iterator
from contextlib import chdir, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
import hypothesis.strategies as st
import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings

from tabserve import Service
from tabserve.cli import EXIT_REFUSED, main
from tabserve.errors import InvalidSettings, OperatorError
from tabserve.server.listening import bound
from tabserve.settings import TOML, Settings, variable

pytestmark = pytest.mark.usefixtures("restored_process")

FUZZ = settings(deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow])

# What a shell or a file can hand over: no NUL; and bytes that are no UTF-8 come as surrogates.
words = (
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20)
    | st.binary(max_size=8).map(lambda content: os.fsdecode(content.replace(b"\0", b"")))
    | st.integers().map(str)
    | st.floats().map(str)
)


@contextmanager
def working_folder() -> Iterator[Path]:
    """With some things that are not what a command wants."""
    with TemporaryDirectory(prefix="fuzz-") as made, chdir(made):
        folder = Path(made)
        (folder / "empty.csv").write_bytes(b"")
        (folder / "some.csv").write_bytes(b"a,b\n1,2\n")
        (folder / "noise").write_bytes(bytes(range(256)))
        (folder / "noise.joblib").write_bytes(b"\x80\x04cos\nsystem\n.")
        (folder / "noise.skops").write_bytes(b"PK\x03\x04")
        (folder / "noise.onnx").write_bytes(bytes(range(1, 200)))
        (folder / "folder" / "1.0.0").mkdir(parents=True)
        (folder / "folder" / "1.0.0" / "manifest.json").write_text("[]")
        yield folder


PATHS = [
    "empty.csv", "some.csv", "noise", "noise.joblib", "noise.skops", "noise.onnx", "folder",
    "folder/1.0.0", "nowhere", "..", "", "math:pi", "nowhere:model", "tabserve:Service",
]  # fmt: skip


def leaves(command: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    if isinstance(command, click.Group):
        for name, below in command.commands.items():
            yield from leaves(below, (*path, name))
    else:
        yield path


COMMANDS = list(leaves(main))


def command_of(path: tuple[str, ...]) -> click.Command:
    found: click.Command = main
    for name in path:
        assert isinstance(found, click.Group)
        found = found.commands[name]
    return found


@st.composite
def command_lines(draw: st.DrawFn) -> list[str]:
    path = draw(st.sampled_from(COMMANDS))
    line: list[str] = [*path]
    value = st.sampled_from(PATHS) | words
    if path == ("bench",):  # traffic goes nowhere but to this machine
        value = st.sampled_from(["http://127.0.0.1:1", "ftp://127.0.0.1", "127.0.0.1", "x", ""])
    if path[0] in ("new", "keys", "pack"):  # these write, and no further than the working folder
        value = st.sampled_from(PATHS).filter(lambda text: text != "..") | words.map(
            lambda text: text.replace("/", "")
        )
    for parameter in command_of(path).params:
        if isinstance(parameter, click.Argument):
            line += draw(st.lists(value, min_size=1, max_size=1))
        elif parameter.name != "help" and draw(st.integers(0, 5)) == 0:
            assert isinstance(parameter, click.Option)
            line.append(draw(st.sampled_from(parameter.opts)))
            if not parameter.is_flag:
                line.append(draw(value))
    return line


def assert_ends_well(line: list[str], env: dict[str, str | None] | None = None) -> int:
    """Without a traceback; where it is refused, with one sentence."""
    done = CliRunner().invoke(main, line, env=env)
    assert done.exception is None or isinstance(done.exception, SystemExit), done.output
    assert done.exit_code in (0, 1, EXIT_REFUSED)
    assert "Traceback" not in done.output
    if done.exit_code == EXIT_REFUSED:
        errors = [text for text in done.stderr.splitlines() if text.startswith("Error: ")]
        findings = '"verdict": "refused"' in done.stdout  # check --json
        assert len(errors) + findings == 1, done.output
    return done.exit_code


@settings(FUZZ, max_examples=300)
@given(line=command_lines())
def test_any_command_line_ends_with_a_sentence(line: list[str]) -> None:
    with working_folder():
        assert_ends_well(line)


SETTINGS = [name for name in Settings.model_fields if name != "path"]


@settings(FUZZ, max_examples=200)
@given(
    told=st.dictionaries(
        st.sampled_from(SETTINGS).map(variable)
        | st.text("ABC_", min_size=1).map("TABSERVE_".__add__),
        st.sampled_from(PATHS) | words,
        max_size=4,
    )
)
def test_any_environment_ends_with_a_sentence(told: dict[str, str | None]) -> None:
    with working_folder():
        assert assert_ends_well(["serve", "nowhere"], told) == EXIT_REFUSED


toml_values = (
    st.booleans().map(lambda value: str(value).lower())
    | st.integers().map(str)
    | st.floats().map(repr)
    | st.just("1979-05-27T07:32:00Z")
    | st.just("[1, 'x', [{}]]")
    | st.just("{a = {b = 1}}")
    | st.text("abc\\/é:#,", max_size=10).map(lambda text: f"'{text}'")
)


@settings(FUZZ, max_examples=200)
@given(
    lines=st.dictionaries(st.sampled_from([*Settings.model_fields, "x"]), toml_values, max_size=4)
)
def test_any_toml_ends_with_a_sentence(lines: dict[str, str]) -> None:
    text = "".join(f"{name} = {value}\n" for name, value in lines.items())
    with working_folder() as folder:
        (folder / TOML).write_text(text, "utf-8")
        assert assert_ends_well(["serve", "nowhere"]) == EXIT_REFUSED


@settings(FUZZ, max_examples=100)
@given(content=st.binary(max_size=200))
def test_any_bytes_as_toml_end_with_a_sentence(content: bytes) -> None:
    with working_folder() as folder:
        (folder / TOML).write_bytes(content)
        assert assert_ends_well(["serve", "nowhere"]) == EXIT_REFUSED


@settings(FUZZ, max_examples=200)
@given(
    told=st.dictionaries(
        st.sampled_from(SETTINGS),
        st.none() | st.booleans() | st.integers() | st.floats() | words | st.lists(words),
        max_size=3,
    )
)
def test_settings_are_taken_or_refused_with_a_sentence(told: dict[str, Any]) -> None:
    try:
        taken = Settings.load(**told)
    except InvalidSettings as error:
        assert str(error).endswith(".")
    else:
        assert set(told) <= taken.model_fields_set


no_paths_away = words.filter(lambda text: "/" not in text)
numbers = st.integers().map(str) | st.floats().map(str)
# What each kind of setting takes, and what looks like it.
LIKELY = {
    "rate_limit_store": st.sampled_from(["redis://", "rediss://[", "unix://", "redis://h:p"])
    | words.map("redis://127.0.0.1:1/".__add__),
    "rate_limit": numbers.map(lambda n: f"{n}/minute"),
    "key_tries": numbers.map(lambda n: f"{n}/hour"),
    "keys": st.just("a:" + "0" * 64 + ",") | words.map(f"a:{'0' * 64},".__add__),
    "request": words.map("math:".__add__) | words.map("churn=".__add__),
    "host": words,
    "allowed_hosts": words,
    "cors_origins": words.map("https://".__add__),
}
served_settings = st.sampled_from(sorted({*SETTINGS} - {"port", "admin_port", "run_dir"})).flatmap(
    lambda name: st.tuples(
        st.just(name), LIKELY.get(name, numbers) | no_paths_away | st.just("a\0b")
    )
)


@settings(FUZZ, max_examples=150)
@given(told=st.lists(served_settings, min_size=1, max_size=3).map(dict))
def test_a_service_of_any_settings_is_made_or_refused_with_a_sentence(
    repository: Path, told: dict[str, str]
) -> None:
    with working_folder():
        try:
            known = Settings.load(path=str(repository), **{"rate_limit": "1/minute"} | told)
            bound("main", known.host, 0).socket.close()
            service = Service(repository, settings=known)
        except OperatorError as error:
            assert str(error).endswith(".")
            return
        try:
            service.dispatcher()
        except OperatorError as error:
            assert str(error).endswith(".")
        finally:
            service.close()

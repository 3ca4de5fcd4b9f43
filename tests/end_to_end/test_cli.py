"""The commands: what they do, and what they say of input that is wrong."""

import re
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import joblib
import orjson
import pandas as pd
import pytest
import skops.io
from click.testing import CliRunner, Result
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline

from tabserve import Settings, server
from tabserve.artifact import Manifest
from tabserve.auth import Keys
from tabserve.cli import main
from tabserve.errors import Forbidden, InvalidSettings
from tabserve.server import refuse_open_door
from tests.end_to_end.conftest import Server
from tests.forging import edit_manifest, forge
from tests.naming import stable

Command = Callable[..., subprocess.CompletedProcess[str]]

COMMANDS = [[], ["pack"], ["serve"], ["check"], ["bench"], ["keys"]]
KEYS_COMMANDS = [["keys", name] for name in ("add", "list", "rotate", "revoke")]


@pytest.fixture
def folder(
    tmp_path: Path, customers: pd.DataFrame, pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """The working directory: a sample and the model in each form."""
    monkeypatch.chdir(tmp_path)
    customers.to_csv("rows.csv", index=False)
    skops.io.dump(pipeline, "model.skops")
    joblib.dump(pipeline, "model.joblib")
    return tmp_path


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments))


def pack(model: str, *flags: str) -> Result:
    given = ["--data", "rows.csv", "--name", "churn", "--version", "1.0.0", "--target", "churn"]
    return run("pack", model, *given, *flags)


def assert_refused(result: Result, sentence: str) -> None:
    """Exit code 2, and one sentence on standard error, after what packing told."""
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert re.fullmatch(r"((Packing|Reading) .+\n)*Error: .+\n", result.stderr), result.stderr
    assert re.search(sentence, result.stderr), result.stderr


@pytest.mark.parametrize("command", COMMANDS + KEYS_COMMANDS, ids=" ".join)
def test_every_command_has_help(command: list[str]) -> None:
    result = run(*command, "--help")

    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.startswith("Usage: main " + " ".join(command))
    assert [run(*command, "-h").stdout] == [result.stdout]


@pytest.mark.parametrize("group", [[], ["keys"]], ids=str)
def test_no_commands_line_in_the_help_is_cut_short(group: list[str]) -> None:
    assert "..." not in run(*group, "--help").stdout.replace("[ARGS]...", "")


def walked(command: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """Every option of every command, with where it stands."""
    if isinstance(command, click.Group):
        for name, inner in command.commands.items():
            yield from walked(inner, (*path, name))
    for option in command.params:
        if isinstance(option, click.Option):
            yield " ".join((*path, *option.opts)), option


def test_every_option_is_explained() -> None:
    explained = {where: (option.help or "").partition("[")[0] for where, option in walked(main)}
    assert [where for where, text in explained.items() if not text] == []


def test_the_help_of_serve_tells_the_kind_and_the_default_of_a_setting() -> None:
    text = " ".join(run("serve", "--help").stdout.split())

    assert "--drain-delay FLOAT After SIGTERM requests are answered for so long" in text
    assert "while /ready is 503. [default: 0.0 s]" in text
    assert "--workers INTEGER Processes that answer requests. [default: 1]" in text


def test_help_names_every_setting_of_serve() -> None:
    text = run("serve", "--help").stdout

    flags = {"--" + name.replace("_", "-") for name in Settings.model_fields if name != "path"}
    assert flags <= set(re.findall(r"--[a-z-]+", text))


def test_the_version_is_told() -> None:
    assert run("--version").stdout.startswith("tabserve, version ")


# --- pack


@pytest.mark.parametrize(
    ("model", "flags"),
    [
        ("model.skops", []),
        ("model.joblib", ["--allow-pickle"]),
        ("own_model:fitted", []),
    ],
)
def test_a_model_is_packed_from_a_file_or_a_module(
    folder: Path, model: str, flags: list[str]
) -> None:
    (folder / "own_model.py").write_text("import joblib\nfitted = joblib.load('model.joblib')\n")
    sys.modules.pop("own_model", None)

    result = pack(model, *flags)

    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == "Packed models/churn/1.0.0\n"
    manifest = read_manifest(folder / "models/churn/1.0.0")
    assert manifest.model_files == {"model.skops": "skops"}
    assert {metric.data for metric in manifest.metrics} == {"rows.csv"}
    assert manifest.parity.exactness == "bits"


def read_manifest(version: Path) -> Manifest:
    return Manifest.model_validate_json((version / "manifest.json").read_bytes())


def test_every_flag_of_pack_is_in_the_manifest(folder: Path) -> None:
    result = pack(
        "model.skops", "--out", "elsewhere", "--format", "joblib",
        "--output-name", "churn_probability", "--positive", "No", "--round", "2",
        "--bands", "risk: Low < 0.3 <= High", "--unknown", "contract_type=refuse",
        "--extra-fields", "ignore",
    )  # fmt: skip

    assert result.exit_code == 0, result.stderr
    manifest = read_manifest(folder / "elsewhere/churn/1.0.0")
    assert manifest.output is not None
    assert manifest.output.model_dump() == {
        "name": "churn_probability",
        "positive": "No",
        "round": 2,
        "bands": {"name": "risk", "labels": ("Low", "High"), "edges": (0.3,)},
    }
    assert manifest.model_files == {"model.joblib": "joblib"}
    assert manifest.signature.extra_fields == "ignore"
    policies = {feature.name: feature.unknown for feature in manifest.signature.features}
    assert policies["contract_type"] == "refuse"


def test_a_version_is_overwritten_only_where_that_is_said(folder: Path) -> None:
    assert pack("model.skops").exit_code == 0
    before = read_manifest(folder / "models/churn/1.0.0").created

    assert_refused(pack("model.skops"), "exists already.*--replace")
    assert pack("model.skops", "--replace").exit_code == 0
    assert read_manifest(folder / "models/churn/1.0.0").created > before


@pytest.mark.parametrize(
    ("model", "flags", "sentence"),
    [
        ("model.joblib", [], "pickle.*--allow-pickle"),
        ("missing.skops", [], "Cannot read the model missing.skops"),
        ("missing.joblib", ["--allow-pickle"], "Cannot read the model missing.joblib"),
        ("rubbish.skops", [], "no skops file"),
        ("rubbish.joblib", ["--allow-pickle"], "rubbish.joblib"),
        ("empty.pkl", ["--allow-pickle"], "empty.pkl"),
        (".", [], "Expected a folder of MLflow's with MLmodel"),
        ("model.onnx", [], "Cannot read the model model.onnx"),
        ("model.txt2", [], "Expected a model as FILE.skops"),
        ("no_such_module:model", [], "Cannot import no_such_module:model"),
        ("json:model", [], "Cannot import json:model"),
        (":model", [], "Cannot import :model"),
        ("json:loads", [], "fails on rows of its own sample data"),
        ("unfitted.joblib", ["--allow-pickle"], "LogisticRegression is not fitted"),
        ("model.skops", ["--data", "missing.csv"],
         "Cannot read the sample data missing.csv: No such file or directory.\n"),
        ("model.skops", ["--data", "empty.pkl"], "Cannot read the sample data empty.pkl"),
        ("model.skops", ["--data", "model.joblib"],
         "Cannot read the sample data model.joblib: expected CSV in UTF-8.\n"),
        ("model.skops", ["--data", "narrow.csv"], "lacks the column.*contract_type"),
        ("model.skops", ["--data", "header.csv"], "row"),
        ("model.skops", ["--target", "gone"], "no column 'gone'"),
        ("model.skops", ["--name", "../up"], "cannot be used"),
        ("model.skops", ["--version", "1 0"], "cannot be used"),
        ("model.skops", ["--out", "rows.csv"], "rows.csv"),
        ("model.skops", ["--positive", "Yes"], "--output-name"),
        ("model.skops", ["--output-name", "p", "--positive", "Maybe"], "positive class"),
        ("model.skops", ["--output-name", "p", "--bands", "Low < High"], "expected bands"),
        ("model.skops", ["--output-name", "p", "--bands", "b: A < 2 <= B < 1 <= C"], "ascend"),
        ("model.skops", ["--output-name", "model_version"], "choose another"),
        ("model.skops", ["--unknown", "contract_type=maybe"], "FEATURE=refuse"),
        ("model.skops", ["--unknown", "colour=allow"],
         "colour, which is no feature; the features are tenure_months, "),
        ("model.skops", ["--unknown", "tenure_months=allow"], "tenure_months has no categories"),
    ],
)  # fmt: skip
def test_pack_refuses_with_a_sentence(
    folder: Path, model: str, flags: list[str], sentence: str
) -> None:
    for rubbish in ("rubbish.skops", "rubbish.joblib"):
        (folder / rubbish).write_bytes(b"rubbish")
    (folder / "empty.pkl").touch()
    (folder / "narrow.csv").write_text("tenure_months,churn\n1,Yes\n")
    header = (folder / "rows.csv").read_text().splitlines()[0]
    (folder / "header.csv").write_text(header + "\n")
    joblib.dump(LogisticRegression(), folder / "unfitted.joblib")

    assert_refused(pack(model, *flags), sentence)
    assert not list(folder.glob("models/*/*"))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["pack"], "Missing argument 'MODEL'"),
        (["pack", "m.skops"], "Missing option '--name'"),
        (["pack", "m.skops", "--data", "d", "--name", "n", "--version", "v", "--round", "99"],
         "99 is not in the range"),
        (["pack", "m.skops", "--format", "onnx"], "'onnx' is not one of"),
        (["serve", "--framework", "django"], "'django' is not one of"),
        (["serve", "--colour"], "No such option '?--colour"),
        (["serve", "a", "b"], "unexpected extra argument"),
        (["check"], "Missing argument 'PATH'"),
        (["keys", "add"], "Missing argument 'NAME'"),
        (["keys", "revoke"], "Missing argument 'NAME'"),
        (["bench"], "Missing argument 'URL'"),
        (["fly"], "No such command 'fly'"),
    ],
)  # fmt: skip
def test_a_wrong_flag_is_told_with_the_usage(arguments: list[str], sentence: str) -> None:
    result = run(*arguments)

    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("Usage: main ")
    assert re.search(f"\nError: .*{sentence}", result.stderr), result.stderr


# --- keys


def test_a_key_is_shown_once_listed_by_name_and_revoked(folder: Path) -> None:
    added = run("keys", "add", "ann")
    key = added.stdout.strip()

    assert (added.exit_code, len(key)) == (0, 46)
    assert key not in added.stderr
    assert key not in Path("keys.json").read_text()
    assert Path("keys.json").stat().st_mode & 0o077 == 0
    assert Keys("keys.json").holder(key) == "ann"
    assert run("keys", "add", "bob").exit_code == 0
    listed = run("keys", "list").stdout
    assert re.fullmatch(r"ann\tpredict\t\S+\nbob\tpredict\t\S+\n", listed)
    assert run("keys", "revoke", "ann").exit_code == 0
    assert run("keys", "list").stdout.startswith("bob\t")


def test_a_key_gives_way_to_another_and_both_are_taken_meanwhile(folder: Path) -> None:
    first = run("keys", "add", "ann", "--role", "admin", "--expires", "90d").stdout.strip()
    second = run("keys", "rotate", "ann", "--overlap", "12h").stdout.strip()

    assert {Keys("keys.json").holder(key, {"admin"}) for key in (first, second)} == {"ann"}
    listed = run("keys", "list").stdout
    assert re.fullmatch(r"ann\tadmin\t\S+\texpires \S+\nann\tadmin\t\S+\n", listed)
    assert run("keys", "revoke", "ann", "--old").exit_code == 0
    assert Keys("keys.json").holder(second) == "ann"
    with pytest.raises(Forbidden):
        Keys("keys.json").holder(first)
    assert_refused(run("keys", "revoke", "ann", "--old"), "has no older key named ann")


def test_a_load_test_takes_its_key_from_a_file_or_a_variable_and_never_as_a_flag(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str | None] = []
    monkeypatch.setattr("tabserve.bench.Plan", lambda **told: seen.append(told["key"]) or 1 / 0)
    Path("key").write_text("ts_a\n")

    run("bench", "http://127.0.0.1:1", "--key-file", "key")
    monkeypatch.setenv("TABSERVE_API_KEY", "ts_b")
    run("bench", "http://127.0.0.1:1")

    assert seen == ["ts_a", "ts_b"]
    assert "No such option" in run("bench", "http://127.0.0.1:1", "--key", "ts_c").stderr


def test_ctrl_c_is_none_of_the_answers_of_a_command(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(path: str, **_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("tabserve.checking.check", interrupted)
    result = run("check", "models")
    assert (result.exit_code, result.stdout, result.stderr) == (130, "", "Interrupted.\n")


@pytest.mark.parametrize("flag", ["--json", "--html"])
def test_a_load_test_is_refused_before_it_runs_where_its_report_has_no_place(
    folder: Path, flag: str
) -> None:
    for place in ("missing/report", "."):
        found = run("bench", "http://127.0.0.1:1", flag, place)
        assert_refused(found, "a folder that exists for the report")


def test_a_file_of_a_key_that_is_no_text_is_refused(folder: Path) -> None:
    Path("key").write_bytes(b"\xff\xfe")
    found = run("bench", "http://127.0.0.1:1", "--key-file", "key")
    assert_refused(found, "Expected a file of text that holds a key, got key")


def test_the_file_of_keys_is_told_by_flag_or_variable(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run("keys", "add", "ann", "--keys", "flag.json").exit_code == 0
    monkeypatch.setenv("TABSERVE_KEYS", "variable.json")
    assert run("keys", "add", "ann").exit_code == 0
    assert {path.name for path in folder.glob("*.json")} == {"flag.json", "variable.json"}


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["add", "ann"], "a key named ann already"),
        (["add", "a b"], "Expected a name of letters"),
        (["add", "bob", "--keys", "gone/keys.json"], "gone/keys.json"),
        (["add", "bob", "--keys", "rows.csv"], "rows.csv is no file of keys"),
        (["list", "--keys", "gone.json"], "gone.json"),
        (["list", "--keys", "rows.csv"], "rows.csv is no file of keys"),
        (["revoke", "bob"], "no key named bob"),
        (["revoke", "bob", "--keys", "gone.json"], "Cannot read the keys in gone.json"),
        (["add", "bob", "--keys", f"ann:{64 * 'a'}"], "got the keys themselves"),
    ],
)
def test_keys_refuses_with_a_sentence(folder: Path, arguments: list[str], sentence: str) -> None:
    run("keys", "add", "ann")
    before = Path("keys.json").read_text()

    assert_refused(run("keys", *arguments), sentence)
    assert Path("keys.json").read_text() == before
    assert list(Path().glob("*:*")) == list(Path().glob("gone*")) == []


# --- check


def flip_a_byte(version: Path) -> None:
    model = version / "model.skops"
    content = bytearray(model.read_bytes())
    content[len(content) // 2] ^= 1
    model.write_bytes(content)


def change_a_golden_output(version: Path) -> None:
    """And its hash in the manifest, as one does who means harm."""
    golden = version / "golden.jsonl"
    lines = golden.read_bytes().splitlines(keepends=True)
    line = orjson.loads(lines[3])
    line["outputs"]["proba"] = 1 - line["outputs"]["proba"]
    lines[3] = orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE)
    forge(version, "golden.jsonl", b"".join(lines))


def test_check_of_a_sound_artefact_ends_with_0(repository: Path) -> None:
    result = run("check", str(repository))

    assert (result.exit_code, result.stderr) == (0, "")
    assert "churn 1.2.3" in result.stdout
    assert "sha256 as packed" in result.stdout


def test_check_of_another_library_version_ends_with_1(own_repository: Path) -> None:
    version = own_repository / "churn/1.2.3"
    libraries = read_manifest(version).libraries
    others = libraries | {"sklearn": "0.1"}
    edit_manifest(version, lambda manifest: manifest.update(libraries=others))

    result = run("check", str(own_repository))

    assert result.exit_code == 1
    assert "packed with 0.1" in result.stdout


@pytest.mark.parametrize("change", [flip_a_byte, change_a_golden_output])
def test_check_of_an_altered_artefact_ends_with_2(
    own_repository: Path, change: Callable[[Path], None]
) -> None:
    change(own_repository / "churn/1.2.3")

    result = run("check", str(own_repository))

    assert (result.exit_code, result.stderr) == (2, "")
    assert "refused" in result.stdout


@pytest.mark.parametrize(("flags", "exit_code"), [([], 2), (["--allow-pickle"], 1)])
def test_check_of_a_pickle_ends_with_2_or_a_warning(
    folder: Path, flags: list[str], exit_code: int
) -> None:
    assert pack("model.skops", "--format", "joblib", "--engine", "native").exit_code == 0

    assert run("check", "models", *flags).exit_code == exit_code


@pytest.mark.parametrize("path", ["gone", "rows.csv", "."])
def test_check_of_what_is_no_artefact_ends_with_a_sentence(folder: Path, path: str) -> None:
    assert_refused(run("check", path), "Expected a packed model at ")


# --- serve: what is refused before a port is bound


@pytest.fixture
def users_folder(tmp_path: Path, own_repository: Path) -> Path:
    """Below it: a repository, and modules that do not fit."""
    header = "from pydantic import BaseModel\n\n"
    fields = "    tenure_months: int\n    monthly_charges: float\n    contract_type: str\n"
    (tmp_path / "own.py").write_text(
        f"{header}class Lacks(BaseModel):\n{fields}\n\n"
        f"class Clashes(BaseModel):\n{fields}    total_charges: float\n    model_version: str\n\n"
        "number = 1\n"
    )
    return tmp_path


REFUSED = {
    "no such path": (["gone"], {}, "Expected a packed model at gone"),
    "no such module": (["gone:service"], {}, "Cannot import gone:service"),
    "no such attribute": (["own:gone"], {}, "Cannot import own:gone"),
    "no service": (["own:number"], {}, "Expected a tabserve.Service.* at own:number, found int"),
    "no such request class": (["models", "--request", "own:Gone"], {}, "Cannot import own:Gone"),
    "no request class": (["models", "--request", "own:number"], {}, "Expected a pydantic class"),
    "no module in request": (["models", "--request", ":X"], {}, "Cannot import :X"),
    "a request class that lacks a feature": (
        ["models", "--request", "own:Lacks"], {}, "Lacks has no field for .*total_charges",
    ),
    "a request class that clashes": (
        ["models", "--request", "own:Clashes"], {}, r"Clashes has the field\(s\) model_version",
    ),
    "an unknown variable": (
        ["models"], {"TABSERVE_PROT": "1"}, "Unknown setting in the environment: TABSERVE_PROT",
    ),
    "an unknown key of the file": (["models"], {"toml": "prot = 1"}, "Unknown setting 'prot'"),
    "a file that is no TOML": (["models"], {"toml": "port ="}, "tabserve.toml cannot be read"),
    "a wrong value in the file": (["models"], {"toml": "workers = 'x'"}, "workers in tabserve"),
    "a wrong value of a variable": (
        ["models"], {"TABSERVE_WORKERS": "many"}, "valid integer.*--workers, TABSERVE_WORKERS",
    ),
    "a wrong value of a flag": (["models", "--port", "70000"], {}, "70000.*--port"),
    "a wrong rate": (["models", "--rate-limit", "5/fortnight"], {}, ": Expected a rate as N/"),
    "no keys in the file": (["models", "--keys", "gone.json"], {}, "tabserve keys add NAME"),
    "a run folder that cannot be": (["models", "--run-dir", "own.py"], {}, "run folder own.py"),
    "reload with workers": (["models", "--reload", "--workers", "2"], {}, "one worker only"),
    "an open door": (["models", "--host", "0.0.0.0"], {}, "there are no keys.*--insecure"),
    "an open door to several": (
        ["models", "--host", "0.0.0.0", "--workers", "2"], {}, "there are no keys.*--insecure",
    ),
    "an open door of flask": (
        ["models", "--host", "::", "--framework", "flask"], {}, "there are no keys.*--insecure",
    ),
    "no such address": (["models", "--host", "192.0.2.1", "--insecure"], {}, "another --host"),
    "no such host": (["models", "--host", "a..b", "--insecure"], {}, "Cannot listen on"),
}  # fmt: skip


@pytest.fixture
def no_server(monkeypatch: pytest.MonkeyPatch, restored_process: None) -> None:
    """A server that is not refused fails the test, and does not serve."""

    def would_serve(*_: Any) -> None:
        raise AssertionError("it was not refused")

    monkeypatch.setattr(server, "_announce", would_serve)


@pytest.mark.usefixtures("no_server")
@pytest.mark.parametrize(("arguments", "told", "sentence"), REFUSED.values(), ids=REFUSED.keys())
def test_serve_refuses_before_it_listens(
    users_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    told: dict[str, str],
    sentence: str,
) -> None:
    monkeypatch.chdir(users_folder)
    for name, text in told.items():
        if name == "toml":
            Path("tabserve.toml").write_text(text)
        else:
            monkeypatch.setenv(name, text)

    assert_refused(run("serve", "--port", "0", *arguments), sentence)


def test_a_refusing_server_says_no_more_than_a_sentence_and_leaves_nothing(
    tabserve: Command, users_folder: Path
) -> None:
    done = tabserve("serve", "models", "--workers", "2", "--host", "0.0.0.0")

    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(r"Error: 0.0.0.0 can be reached .*--insecure.\n", done.stderr)
    assert list((users_folder / "tmp").iterdir()) == []


@pytest.mark.usefixtures("no_server")
@pytest.mark.parametrize("flags", [[], ["--framework", "flask"], ["--reload"]])
def test_serve_refuses_a_port_in_use(own_repository: Path, flags: list[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        result = run("serve", str(own_repository), "--port", port, *flags)

    told = rf"Cannot listen on 127.0.0.1:{port}: Address already in use. Choose another --port\."
    assert_refused(result, told)


@pytest.mark.parametrize("told", [{"insecure": True}, {"keys": "keys.json"}])
def test_a_door_is_opened_with_keys_or_where_that_is_said(told: dict[str, Any]) -> None:
    refuse_open_door(Settings(host="0.0.0.0", **told))


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.1", "example.org"])
def test_no_door_is_opened_otherwise(host: str) -> None:
    with pytest.raises(InvalidSettings, match="can be reached from other machines"):
        refuse_open_door(Settings(host=host))


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "::1", "localhost"])
def test_this_machine_alone_is_no_open_door(host: str) -> None:
    refuse_open_door(Settings(host=host))


# --- serve: what a worker finds


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "flags", "sentence"),
    [
        (flip_a_byte, [], "model.skops was changed after packing"),
        (change_a_golden_output, [], "row 4 of golden.jsonl"),
        (change_a_golden_output, ["--workers", "2"], "row 4 of golden.jsonl"),
        (change_a_golden_output, ["--framework", "flask", "--workers", "2"], "row 4 of golden"),
        (lambda version: None, ["--workers", "2", "--log", "gone/log"], "Cannot write the log"),
        (lambda version: None, ["--framework", "flask", "--log", "gone/log"], "Cannot write the"),
    ],
    ids=stable,
)
def test_serve_ends_with_2_where_a_worker_refuses(
    serve: Callable[..., Server],
    own_repository: Path,
    change: Callable[[Path], None],
    flags: list[str],
    sentence: str,
) -> None:
    change(own_repository / "churn/1.2.3")
    started = serve("models", *flags)

    assert started.wait() == 2, started.output
    assert re.search(f"^Error: .*{sentence}", started.output, re.MULTILINE), started.output
    started.assert_nothing_is_left()


@pytest.mark.slow
def test_serve_refuses_a_pickle_unless_that_is_allowed(
    serve: Callable[..., Server], folder: Path
) -> None:
    assert pack("model.skops", "--format", "joblib", "--engine", "native").exit_code == 0

    refused = serve("models")
    assert refused.wait() == 2
    assert re.search("^Error: The model is a pickle", refused.output, re.MULTILINE)
    refused.assert_nothing_is_left()

    assert serve("models", "--allow-pickle").wait_until_ready().stop() == 0

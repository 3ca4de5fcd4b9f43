from pathlib import Path
from typing import Any

import pytest

from tabserve import Settings
from tabserve.errors import InvalidSettings
from tabserve.settings import Rate, flag, is_loopback, variable


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, without a tabserve.toml at first."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def toml(text: str) -> None:
    Path("tabserve.toml").write_text(text)


def test_a_flag_wins_over_the_environment_that_over_the_file_and_that_over_the_default(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    toml("port = 1\nworkers = 2\nmax_rows = 3\n")
    monkeypatch.setenv("TABSERVE_PORT", "4")
    monkeypatch.setenv("TABSERVE_WORKERS", "5")

    found = Settings.load(port="6")

    assert (found.port, found.workers, found.max_rows, found.max_queue) == (6, 5, 3, 1000)


def test_the_names_of_flag_and_variable_are_made_from_the_settings() -> None:
    assert (flag("rate_limit"), variable("rate_limit")) == ("--rate-limit", "TABSERVE_RATE_LIMIT")


def test_all_is_known_of_each_setting() -> None:
    for name, field in Settings.model_fields.items():
        assert field.description, name
        assert field.description.endswith("."), name


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("port", "0", 0),
        ("reload", "true", True),
        ("reload", "0", False),
        ("deadline", "0.5", 0.5),
        ("hide", "a,b", ("a", "b")),
        ("hide", " a , monthly charges ,", ("a", "monthly charges")),
        ("hide", "a", ("a",)),
        ("run_dir", "/x/y", Path("/x/y")),
        ("rate_limit", "100/minute", "100/minute"),
        ("rate_limit", "", None),
        ("keys", "", None),
    ],
)
def test_a_variable_is_read_as_its_type(
    monkeypatch: pytest.MonkeyPatch, name: str, text: str, value: Any
) -> None:
    monkeypatch.setenv(variable(name), text)

    assert getattr(Settings.load(), name) == value


def test_a_list_of_the_file_is_a_list() -> None:
    toml('hide = ["monthly charges", "b"]')

    assert Settings.load().hide == ("monthly charges", "b")


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("port", "x", "unable to parse string as an integer, got 'x'"),
        ("port", "65536", "less than or equal to 65535, got '65536'"),
        ("workers", "0", "greater than or equal to 1, got '0'"),
        ("framework", "django", "'fastapi' or 'flask', got 'django'"),
        ("deadline", "0", "greater than 0, got '0'"),
        ("deadline", "nan", "got 'nan'"),
        ("deadline", "inf", "got 'inf'"),
        ("max_body", "4MB", "unable to parse string as an integer, got '4MB'"),
        ("rate_limit", "100", "N/second, N/minute, N/hour or N/day, such as 100/minute, got '100'"),
        ("rate_limit", "0/minute", "got '0/minute'"),
        ("rate_limit", "-1/minute", "got '-1/minute'"),
        ("rate_limit", "1/fortnight", "got '1/fortnight'"),
        ("reload", "maybe", "got 'maybe'"),
        *(
            ("allowed_hosts", host, f"10.0.0.7 or [::1], got '{host}'")
            for host in ("*", "a b", "a:80", "http://a", "::1", "a.example.org,*.*.b")
        ),
    ],
)
def test_a_value_that_cannot_be_is_refused_with_its_three_names(
    monkeypatch: pytest.MonkeyPatch, name: str, text: str, told: str
) -> None:
    monkeypatch.setenv(variable(name), text)

    with pytest.raises(InvalidSettings) as refused:
        Settings.load()

    where = f" ({flag(name)}, {variable(name)} or {name} in tabserve.toml)."
    assert str(refused.value).endswith(told + where)
    assert "Value error" not in str(refused.value)


def test_an_unknown_variable_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TABSERVE_PROT", "1")

    with pytest.raises(InvalidSettings, match="in the environment: TABSERVE_PROT"):
        Settings.load()


def test_the_variable_of_another_command_is_none_of_the_servers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TABSERVE_API_KEY", "secret")

    assert Settings.load() == Settings()


def test_the_links_that_kubernetes_makes_to_a_service_of_this_name_are_no_settings(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in {
        "TABSERVE_SERVICE_HOST": "10.0.0.1",
        "TABSERVE_SERVICE_PORT": "8000",
        "TABSERVE_SERVICE_PORT_HTTP": "8000",
        "TABSERVE_PORT": "tcp://10.0.0.1:8000",
        "TABSERVE_PORT_8000_TCP_ADDR": "10.0.0.1",
        "TABSERVE_CHURN_SERVICE_HOST": "10.0.0.2",
        "TABSERVE_CHURN_PORT": "tcp://10.0.0.2:8000",
        "TABSERVE_CHURN_PORT_8000_TCP": "tcp://10.0.0.2:8000",
    }.items():
        monkeypatch.setenv(name, value)

    assert Settings.load().model_dump() == Settings().model_dump()
    assert Settings.load().port == 8000


@pytest.mark.parametrize("text", ["prot = 1", "[serve]\nport = 1"])
def test_an_unknown_line_of_the_file_is_refused(text: str) -> None:
    toml(text)

    with pytest.raises(InvalidSettings, match=r"Unknown setting '\w+' in tabserve.toml"):
        Settings.load()


@pytest.mark.parametrize("content", [b"port =", b"\xff\xfe", b'port = "x'])
def test_a_file_that_is_no_toml_is_refused(folder: Path, content: bytes) -> None:
    (folder / "tabserve.toml").write_bytes(content)

    with pytest.raises(InvalidSettings, match=r"tabserve.toml cannot be read"):
        Settings.load()


def test_a_file_that_cannot_be_opened_is_refused(folder: Path) -> None:
    (folder / "tabserve.toml").mkdir()

    with pytest.raises(InvalidSettings, match=r"^tabserve.toml cannot be read: Is a directory\.$"):
        Settings.load()


def test_reload_with_several_workers_is_refused() -> None:
    with pytest.raises(InvalidSettings, match=r"^--reload works with one worker only\.$"):
        Settings.load(reload="true", workers="2")


@pytest.mark.parametrize(
    "given",
    [
        {},
        {
            "path": "a b/модель",
            "port": 0,
            "workers": 3,
            "framework": "flask",
            "allow_pickle": True,
            "rate_limit": "5/hour",
            "deadline": 0.1,
            "keys": "keys.json",
            "log": "off",
            "hide": ("monthly charges", "b"),
            "run_dir": Path("/x y"),
        },
    ],
)
def test_another_process_finds_the_same_settings_in_its_environment(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, Any]
) -> None:
    before = Settings(**given)
    for name, value in before.environment().items():
        monkeypatch.setenv(name, value)

    assert Settings.load() == before


def test_settings_do_not_change() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Settings().port = 1


@pytest.mark.parametrize(
    ("text", "rate"),
    [("1/second", Rate(1, 1)), ("100 / minute", Rate(100, 60)), ("5/day", Rate(5, 86400))],
)
def test_a_rate_is_a_number_and_a_period(text: str, rate: Rate) -> None:
    assert Rate.parse(text) == rate


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.1.2.3", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("", False),
        ("localhost.example.com", False),
        ("192.168.1.1", False),
    ],
)
def test_loopback_is_what_no_other_machine_can_reach(host: str, loopback: bool) -> None:
    assert is_loopback(host) == loopback

"""Versions promoted, rolled back and tried over HTTP, by who may."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from tabserve import Service, auth, releases, repository
from tabserve.auth import Role
from tabserve.exchange import respond
from tabserve.types import Request, Response
from tests.forging import forge
from tests.serving import PATIENCE_S, settings

ROLES: tuple[Role, ...] = ("predict", "metrics", "admin")


@pytest.fixture
def line(lines: Path, tmp_path: Path) -> Path:
    """The folder of a name with 1.0.0 and 2.0.0, of which the higher is live."""
    return Path(shutil.copytree(lines / "line", tmp_path / "models" / "line"))


class Admin:
    """A ready service with keys, asked on its admin port, or on the other one."""

    def __init__(self, path: Path, folder: Path) -> None:
        self.keys = {role: auth.add_key(folder / "keys.json", role, role) for role in ROLES}
        self.service = Service(path, settings=settings(keys=str(folder / "keys.json")))
        self.service.changes.is_watched = False
        self.service.wait(PATIENCE_S)

    def __call__(
        self,
        method: str,
        path: str,
        role: Role | None = "admin",
        *,
        main: bool = False,
        **body: Any,
    ) -> Response:
        headers = {} if role is None else {"x-api-key": self.keys[role]}
        return self.send(method, path, orjson.dumps(body), headers, main=main)

    def send(
        self, method: str, path: str, body: bytes, headers: dict[str, str], *, main: bool = False
    ) -> Response:
        core = self.service.dispatcher() if main else self.service.admin_dispatcher()
        return respond(core, Request(method, path, headers, body, "127.0.0.1"))

    def live(self) -> str:
        return str(orjson.loads(self("GET", "/models", main=True).body)["models"][0]["live"])


@pytest.fixture
def admin(line: Path, tmp_path: Path) -> Iterator[Admin]:
    made = Admin(line.parent, tmp_path)
    yield made
    made.service.close()


def told(response: Response) -> Any:
    assert response.status == 200, response.body
    return orjson.loads(response.body)


def refused(response: Response) -> tuple[int, str, Any]:
    body = orjson.loads(response.body)
    return response.status, body["error"], body["detail"]


def test_a_version_is_promoted_and_rolled_back(admin: Admin, line: Path) -> None:
    answer = admin("POST", "/models/line/promote", version="1.0.0")

    assert told(answer) == {"name": "line", "live": "1.0.0", "rollout": None}
    assert (admin.live(), repository.live(line).version) == ("1.0.0", "1.0.0")
    assert told(admin("POST", "/models/line/rollback"))["live"] == "2.0.0"
    assert (admin.live(), repository.live(line).version) == ("2.0.0", "2.0.0")


def test_a_version_that_cannot_be_served_is_not_promoted(admin: Admin, line: Path) -> None:
    (line / "1.0.0" / "golden.jsonl").write_bytes(b"")

    status, code, detail = refused(admin("POST", "/models/line/promote", version="1.0.0"))

    assert (status, code) == (409, "conflict")
    assert detail.startswith("line/1.0.0/golden.jsonl was changed after packing")
    assert (admin.live(), repository.read_live(line)) == ("2.0.0", None)


def test_what_cannot_be_loaded_is_not_rolled_back_to(admin: Admin, line: Path) -> None:
    told(admin("POST", "/models/line/promote", version="1.0.0"))
    told(admin("POST", "/models/line/promote", version="2.0.0"))
    before = (line / repository.LIVE).read_bytes()
    forge(line / "1.0.0", "golden.jsonl", b'{"row":{"x":1.0},"outputs":{"value":7.0}}\n')

    status, code, detail = refused(admin("POST", "/models/line/rollback"))

    assert (status, code) == (409, "conflict")
    assert detail.startswith("The model does not give its golden outputs")
    assert (admin.live(), (line / repository.LIVE).read_bytes()) == ("2.0.0", before)


@pytest.mark.parametrize(
    ("body", "status", "detail"),
    [
        ({"version": "3.0.0"}, 404, "There is no version 3.0.0 of line."),
        ({"version": "../../x"}, 404, "There is no version ../../x of line."),
        ({}, 422, [{"loc": ["body", "version"], "msg": "Field required", "type": "missing"}]),
    ],
)
def test_a_promotion_that_cannot_be_is_refused(
    admin: Admin, body: dict[str, Any], status: int, detail: Any
) -> None:
    found = refused(admin("POST", "/models/line/promote", **body))

    assert (found[0], found[2]) == (status, detail)


def test_what_is_named_and_not_there_is_not_repeated_to_the_operator(
    admin: Admin, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "tabserve")

    for version in ("ts_" + "kK" * 21, "1\nERROR tabserve: forged"):
        admin("POST", "/models/line/promote", version=version)

    assert caplog.text == ""


def test_a_new_version_is_looked_for_when_that_is_asked(admin: Admin, line: Path) -> None:
    admin("POST", "/models/line/promote", version="1.0.0")
    (line / repository.LIVE).unlink()

    assert told(admin("POST", "/models/line/reload"))["live"] == "2.0.0"


def test_a_version_is_tried_and_no_more(admin: Admin, line: Path) -> None:
    answer = told(admin("POST", "/models/line/rollout", canary="1.0.0", share=0.25))

    assert answer["rollout"] == {
        "kind": "canary", "version": "1.0.0", "share": 0.25, "sticky": None,
    }  # fmt: skip
    assert releases.read_plan(line) is not None
    assert told(admin("GET", "/models/line/rollout"))["live"] == "2.0.0"
    assert told(admin("DELETE", "/models/line/rollout"))["rollout"] is None
    assert refused(admin("DELETE", "/models/line/rollout"))[0] == 409


def test_a_single_version_has_nothing_to_promote(line: Path, tmp_path: Path) -> None:
    alone = Admin(line / "1.0.0", tmp_path)

    detail = "One version is served here, and no folder of a name."
    for action, body in (("promote", {"version": "2.0.0"}), ("rollback", {}), ("reload", {})):
        answer = alone("POST", f"/models/line/{action}", **body)
        assert refused(answer) == (409, "conflict", detail)
    alone.service.close()


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (b'{"shadow":"1.0.0","share":NaN}', {}, 422),
        (b'{"shadow":"1.0.0","share":1e400}', {}, 422),
        (b'{"shadow":"2.0.0","shadow":"1.0.0"}', {}, 422),
        (b'{"shadow":"1.0.0\\ud800"}', {}, 422),
        (b'{"shadow":"1.0.0\xff"}', {}, 422),
        (b'{"shadow":"1.0.0"}', {"content-type": "text/plain"}, 415),
        (b'{"shadow":"1.0.0"}', {"content-encoding": "br"}, 415),
        (b'{"shadow":"1.0.0"}', {"content-encoding": "gzip"}, 400),
        (b'{"shadow":%s}' % (b"[" * 10**5), {}, 422),
        (b'{"shadow":"1.0.0"}'.ljust(4 * 2**20 + 1), {}, 413),
        (b'{"shadow":"1.0.0"}', {"host": "a,b"}, 400),
    ],
    ids=[
        "NaN",
        "1e400",
        "twice",
        "surrogate",
        "no UTF-8",
        "type",
        "coding",
        "no gzip",
        "deep",
        "large",
        "host",
    ],
)
def test_what_is_asked_for_is_read_as_strictly_as_records(
    admin: Admin, body: bytes, headers: dict[str, str], status: int
) -> None:
    key = {"x-api-key": admin.keys["admin"]}
    assert admin.send("POST", "/models/line/rollout", body, key | headers).status == status
    assert told(admin("GET", "/models/line/rollout"))["rollout"] is None


FORGED = {"host": "127.0.0.1:8001", "origin": "http://evil.example"}
POINTED_HERE = {"host": "evil.example:8001", "origin": "http://evil.example:8001"}


def test_no_page_of_another_origin_may_roll_back(admin: Admin, line: Path) -> None:
    """Where there are no keys: a browser asks nobody before it sends this."""
    told(admin("POST", "/models/line/promote", version="1.0.0"))
    service = Service(line.parent, settings=settings())
    service.wait(PATIENCE_S)

    def rolled_back(**headers: str) -> int:
        request = Request("POST", "/models/line/rollback", headers, b"", "127.0.0.1")
        return respond(service.admin_dispatcher(), request).status

    assert rolled_back(**FORGED) == 403
    assert rolled_back(**FORGED | {"origin": "null"}) == 403
    assert rolled_back(**POINTED_HERE) == 421
    assert repository.live(line).version == "1.0.0"
    assert rolled_back(host="localhost:8001", origin="http://localhost:8001") == 200
    service.close()


def test_with_keys_operators_may_ask_by_any_name(admin: Admin) -> None:
    headers = {"x-api-key": admin.keys["admin"], "host": "tabserve.internal:8001"}

    assert admin.send("POST", "/models/line/reload", b"", headers).status == 200

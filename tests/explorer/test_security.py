"""Who may ask the explorer, how much, and what its pages may load."""

import pytest
from starlette.testclient import TestClient

from diffusae.explorer import start_page
from diffusae.explorer.app import build_app
from diffusae.explorer.security import LARGEST_BODY, Security


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "evil.example:8765", "", "[::2]", "[::1"]
)
def test_a_request_under_a_foreign_name_is_refused(client, host):
    answer = client.get("/", headers={"host": host})
    assert answer.status_code == 421 and "tiny" not in answer.text


@pytest.mark.parametrize("host", ["127.0.0.1:8765", "localhost:8765", "localhost", "[::1]:8765"])
def test_every_name_of_this_machine_is_answered(client, host):
    assert client.get("/", headers={"host": host}).status_code == 200


def test_another_site_may_change_nothing(client):
    for headers in (
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:9"},
        {"sec-fetch-site": "cross-site"},
    ):
        assert client.post("/", headers=headers).status_code == 403
    # No route takes a POST there; it comes as far as that.
    assert client.post("/", headers={"origin": "http://127.0.0.1"}).status_code == 405


def test_a_large_body_is_refused_whether_it_says_its_length_or_not(client):
    def parts():
        yield from [b"x" * 1024] * 65

    for body in (b"x" * (LARGEST_BODY + 1), parts()):
        assert client.put("/", content=body).status_code in (405, 413)
    assert client.put("/", content=b"x" * (LARGEST_BODY + 1)).status_code == 413


def test_a_long_address_is_refused(client):
    assert client.get("/?q=" + "x" * 5000).status_code == 414
    assert client.get("/" + "x" * 5000).status_code == 414


@pytest.mark.parametrize("address", ["/", "/nowhere/", "/static/shell.js"])
def test_every_answer_forbids_the_page_to_load_from_elsewhere(client, address):
    headers = client.get(address).headers
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy and "http" not in policy and "*" not in policy
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"


def test_a_fault_of_the_explorer_is_answered_under_the_same_policy(client, monkeypatch):
    def broken(*_args, **_values):
        raise ZeroDivisionError("a secret of the code")

    monkeypatch.setattr(start_page, "_notes", broken)
    for accept in ("text/html", "application/json"):
        answer = client.get("/", headers={"accept": accept})
        assert answer.status_code == 500 and "secret" not in answer.text
        assert "The explorer made a mistake" in answer.text or "error" in answer.json()
        assert "default-src 'none'" in answer.headers["content-security-policy"]


@pytest.fixture
def open_to_others(explored):
    security = Security("0.0.0.0")
    app = build_app(explored, security)
    return security, TestClient(app, base_url="http://192.0.2.7:8765", follow_redirects=False)


def test_on_another_address_nothing_is_shown_without_the_token(open_to_others):
    _, client = open_to_others
    for address in ("/", "/?token=", "/?token=wrong", "/static/shell.js"):
        answer = client.get(address)
        assert answer.status_code == 403 and "tiny" not in answer.text


def test_the_token_is_taken_out_of_the_address_and_kept_as_a_strict_cookie(open_to_others):
    security, client = open_to_others
    answer = client.get(f"/?q=red+fish&token={security.token}")
    assert answer.status_code == 303 and answer.headers["location"] == "?q=red+fish"
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie and "samesite=strict" in cookie
    assert client.get("/").status_code == 200


def test_a_loopback_address_needs_no_token_and_every_other_one_has_its_own():
    assert [Security(host).token for host in ("127.0.0.1", "::1", "localhost")] == [None] * 3
    first, second = Security("0.0.0.0").token, Security("192.168.0.2").token
    assert first and second and first != second and len(first) >= 43

import tomllib
from datetime import UTC, datetime, timedelta

import pytest

from core.access.identity import NOBODY, AccessPolicy, Role, Visibility
from core.errors import ConfigError
from core.settings import PROJECT_ROOT

NOW = datetime(2026, 11, 29, 12, tzinfo=UTC)
ADA = {"sub": "1", "iss": "https://id", "email": "Ada@Example.com", "name": "Ada", "iat": NOW.timestamp()}
TABLE = {
    "operators": ["ada@example.com", {"claim": "groups", "value": "llm-ops"}],
    "viewers": ["@Example.org", {"claim": "staff", "value": 7}],
}


def policy(**changes):
    return AccessPolicy.read(TABLE | changes)


def role(claims, **changes):
    return policy(**changes).identify(ADA | claims, NOW).role


@pytest.mark.parametrize("table", [None, {}, {"operators": [], "viewers": []}])
def test_nobody_gets_in_by_default(table):
    assert AccessPolicy.read(table).identify(ADA, NOW).role is None


def test_the_example_file_lets_nobody_in():
    written = (PROJECT_ROOT / ".streamlit" / "secrets.toml.example").read_text("utf-8")
    lines = [line.removeprefix("# ") for line in written.splitlines()]
    settings = [line for line in lines if line.startswith("[") or " = " in line.partition("#")[0]]
    table = tomllib.loads("\n".join(settings))["access"]
    assert set(table) == {"operators", "viewers", "visibility", "session_hours"}
    policy = AccessPolicy.read(table)
    assert policy == AccessPolicy()
    assert policy.identify(ADA, NOW).role is None


@pytest.mark.parametrize(
    ("claims", "expected"),
    [
        ({}, Role.OPERATOR),
        ({"email": "ADA@EXAMPLE.COM", "email_verified": True}, Role.OPERATOR),
        ({"email": "ada@example.com", "email_verified": False}, None),
        ({"email": "ada@example.com.evil.org"}, None),
        ({"email": "bob@example.org"}, Role.VIEWER),
        ({"email": "bob@example.org", "email_verified": False}, None),
        ({"email": "bob@sub.example.org"}, None),
        ({"email": "bob@notexample.org"}, None),
        ({"email": "example.org"}, None),
        ({"email": ["ada@example.com"]}, None),
        ({"email": None}, None),
        ({"email": "x@y.z", "groups": ["a", "llm-ops"]}, Role.OPERATOR),
        ({"email": "x@y.z", "groups": "llm-ops"}, Role.OPERATOR),
        ({"email": "x@y.z", "groups": "llm-ops-not"}, None),
        ({"email": "x@y.z", "staff": 7}, Role.VIEWER),
        ({"email": "x@y.z", "name": "ada@example.com"}, None),
    ],
)
def test_roles_by_address_domain_and_claim(claims, expected):
    assert role(claims) is expected


def test_who_it_is():
    ada = policy().identify(ADA, NOW)
    assert (ada.id, ada.name, ada.owner, ada.sees) == ("ada@example.com", "Ada", ada.id, Visibility.ALL)
    bob = policy(visibility="private").identify({"sub": "b", "staff": 7, "iat": NOW.timestamp()}, NOW)
    assert (bob.id, bob.name, bob.sees) == ("b", "b", Visibility.PRIVATE)


@pytest.mark.parametrize("unverified", [False, "false", "False", 0, "0", "no"])
def test_an_unverified_address_is_nobodys_name(unverified):
    claims = ADA | {"email_verified": unverified, "staff": 7}
    assert policy().identify(claims, NOW).id == "1"
    assert role(ADA | {"email_verified": unverified}) is None


@pytest.mark.parametrize("verified", [True, "true", 1, None])
def test_an_address_that_is_not_called_unverified_counts(verified):
    assert role(ADA | {"email_verified": verified}) is Role.OPERATOR


@pytest.mark.parametrize(
    "issued_at",
    [
        (NOW - timedelta(hours=12)).timestamp(),
        (NOW + timedelta(hours=1)).timestamp(),
        None,
        "yesterday",
        True,
    ],
)
def test_a_login_is_good_for_twelve_hours(issued_at):
    assert policy().identify(ADA | {"iat": issued_at}, NOW) == NOBODY
    assert role({"iat": (NOW - timedelta(hours=11, minutes=59)).timestamp()}) is Role.OPERATOR


def test_the_session_can_be_shorter():
    claims = {"iat": (NOW - timedelta(minutes=31)).timestamp()}
    assert role(claims) is Role.OPERATOR
    assert role(claims, session_hours=0.5) is None


def test_each_login_has_a_name_of_its_own():
    first = policy().identify(ADA, NOW).login
    assert first
    assert policy().identify(dict(ADA), NOW).login == first
    assert policy().identify(ADA | {"iat": NOW.timestamp() - 60}, NOW).login != first
    assert policy().identify(ADA | {"nonce": "2"}, NOW).login != first


@pytest.mark.parametrize(
    ("table", "key"),
    [
        ("everybody", "access"),
        ({"operator": ["a@b.c"]}, "operator"),
        ({"operators": "a@b.c"}, "operators"),
        ({"operators": ["example.com"]}, "operators"),
        ({"operators": ["@"]}, "operators"),
        ({"viewers": [{"claim": "groups"}]}, "viewers"),
        ({"viewers": [{"claim": "email", "value": "a@b.c"}]}, "viewers"),
        ({"viewers": [7]}, "viewers"),
        ({"visibility": "public"}, "visibility"),
        ({"session_hours": 0}, "session_hours"),
        ({"session_hours": True}, "session_hours"),
        ({"session_hours": "12"}, "session_hours"),
    ],
)
def test_a_mistake_is_told_by_its_key(table, key):
    with pytest.raises(ConfigError, match=rf"wrong at {key}\.?$"):
        AccessPolicy.read(table)

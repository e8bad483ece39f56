"""Request lines and what they name."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving_server.errors import InvalidArgumentError
from serving_server.rest.routes import Route, RouteKind, match

K = RouteKind


@pytest.mark.parametrize(
    ("method", "target", "route"),
    [
        ("POST", "/v1/models/m:predict", Route(K.PREDICT, "m")),
        ("POST", "/v1/models/m:classify", Route(K.CLASSIFY, "m")),
        ("POST", "/v1/models/m:regress", Route(K.REGRESS, "m")),
        ("POST", "/v1/models/m/versions/007:predict", Route(K.PREDICT, "m", 7)),
        ("POST", "/v1/models/m/labels/canary:predict", Route(K.PREDICT, "m", None, "canary")),
        ("POST", "/V1/MODELS/m/VERSIONS/7:predict", Route(K.PREDICT, "m", 7)),
        ("POST", "/v1/models/a%2Fb%20%C3%BC/labels/x%3Ay:predict", Route(K.PREDICT, "a/b ü", None, "x:y")),
        ("POST", "/v1/models/100%:predict", Route(K.PREDICT, "100%")),
        ("POST", "/v1/models/a+b:predict", Route(K.PREDICT, "a+b")),
        ("POST", "/v1/models/m/versions/9223372036854775807:predict", Route(K.PREDICT, "m", 2**63 - 1)),
        ("GET", "/v1/models", Route(K.MODELS)),
        ("GET", "/V1/Models", Route(K.MODELS)),
        ("GET", "/v1/models/m", Route(K.STATUS, "m")),
        ("GET", "/v1/models/m?x=1", Route(K.STATUS, "m?x=1")),
        ("GET", "/v1/models/m/versions/3", Route(K.STATUS, "m", 3)),
        ("GET", "/v1/models/m/labels/l", Route(K.STATUS, "m", None, "l")),
        ("GET", "/v1/models/m/metadata", Route(K.METADATA, "m")),
        ("GET", "/v1/models/m/METADATA", Route(K.STATUS, "m")),
        ("GET", "/v1/models/m/versions/3/metadata", Route(K.METADATA, "m", 3)),
        ("GET", "/v1/models/m/labels/l/metadata", Route(K.METADATA, "m", None, "l")),
        ("GET", "/v1/models/metadata", Route(K.STATUS, "metadata")),
        ("OPTIONS", "/v1/anything", Route(K.PREFLIGHT)),
        ("GET", "/healthz", Route(K.HEALTH)),
        ("HEAD", "/readyz?verbose", Route(K.READY)),
        ("POST", "/healthz", Route(K.UNKNOWN)),
        ("GET", "/", Route(K.UNKNOWN)),
        ("GET", "/v1", Route(K.UNKNOWN)),
        ("GET", "/v2/models/m", Route(K.UNKNOWN)),
        ("OPTIONS", "*", Route(K.UNKNOWN)),
    ],
)
def test_routes(method: str, target: str, route: Route) -> None:
    assert match(method, target) == route


@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("PUT", "/v1/models/m:predict"),
        ("HEAD", "/v1/models/m"),
        ("GET", "/v1/models/m:predict"),
        ("POST", "/v1/models/m"),
        ("POST", "/v1/models/m:predict?x=1"),
        ("POST", "/v1/models/m:predict/"),
        ("POST", "/v1/models/m:PREDICT"),
        ("POST", "/v1/models/m:explain"),
        ("POST", "/v1/models/m/versions/1/labels/l:predict"),
        ("POST", "/v1/models/m/versions/x:predict"),
        ("POST", "/v1/models/:predict"),
        ("GET", "/v1/models/m/"),
        ("GET", "/v1/models/m/versions/1/labels/l"),
        ("GET", "/v1/models/m/versions/1/x"),
        ("GET", "/v1/"),
        ("POST", "/v1/models/m/versions/\u0661:predict"),
    ],
)
def test_malformed(method: str, target: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        match(method, target)
    assert caught.value.message == f"Malformed request: {method} {target}"


@pytest.mark.parametrize("target", ["/v1/models/versions/1", "/v1/models/labels/x/metadata"])
def test_no_model(target: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        match("GET", target)
    assert caught.value.message == "Missing model name in request."


@pytest.mark.parametrize("version", ["9223372036854775808", "9" * 5000])
def test_version_beyond_int64(version: str) -> None:
    for method, verb in (("POST", ":predict"), ("GET", "")):
        with pytest.raises(InvalidArgumentError) as caught:
            match(method, f"/v1/models/m/versions/{version}{verb}")
        assert caught.value.message == f"Failed to convert version: {version} to numeric."


@given(st.sampled_from(["GET", "POST"]), st.text(st.characters(max_codepoint=255), max_size=30))
def test_any_target_has_a_route_or_an_error(method: str, tail: str) -> None:
    for target in (tail, "/v1/" + tail, "/v1/models/" + tail + ":predict"):
        try:
            assert isinstance(match(method, target), Route)
        except InvalidArgumentError as error:
            assert error.message  # noqa: PT017

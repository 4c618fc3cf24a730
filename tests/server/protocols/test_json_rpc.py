"""Refusals as errors of JSON-RPC."""

from __future__ import annotations

import json
from typing import Any

import pytest

from chatkeep.server.protocols.entrance import Refusal
from chatkeep.server.protocols.json_rpc import BAD_PARAMS, INTERNAL, coded, rpc_error, rpc_result

pytestmark = pytest.mark.rules


@pytest.mark.parametrize(
    ("expected", "status"),
    [
        ((-32001, "no", 200, {}), 404),
        ((INTERNAL, "no", 500, {"a": "b"}), 500),
        ((INTERNAL, "no", 503, {"a": "b"}), 503),
        ((BAD_PARAMS, "no", 401, {"a": "b"}), 401),
        ((BAD_PARAMS, "no", 403, {"a": "b"}), 403),
        ((BAD_PARAMS, "no", 429, {"a": "b"}), 429),
        ((BAD_PARAMS, "no", 200, {"a": "b"}), 400),
        ((BAD_PARAMS, "no", 200, {"a": "b"}), 499),
    ],
)
def test_a_refusal_has_the_code_that_its_protocol_gives_it(expected: tuple[Any, ...], status: int) -> None:
    """What a client has to do with HTTP for, such as to sign in or to wait, keeps its status; what the server fails at, too."""
    refusal = Refusal(status=status, word="w", detail="no", headers={"a": "b"})

    assert expected == coded(refusal, {404: -32001})


def test_an_error_is_kept_by_no_cache_and_names_its_request() -> None:
    answer = rpc_error(7, -32001, "no", 404, {"a": "b"}, data={"name": "TaskNotFound"})
    plain = rpc_error(None, -32001, "no")
    expected = {
        "jsonrpc": "2.0",
        "id": 7,
        "error": {"code": -32001, "message": "no", "data": {"name": "TaskNotFound"}},
    }

    assert (expected, 404) == (json.loads(bytes(answer.body)), answer.status_code)
    assert ("no-store", "b") == (answer.headers["cache-control"], answer.headers["a"])
    assert {"code": -32001, "message": "no"} == json.loads(bytes(plain.body))["error"]
    assert (200, "no-store") == (plain.status_code, plain.headers["cache-control"])


def test_a_result_names_its_request() -> None:
    assert {"jsonrpc": "2.0", "id": "a", "result": [1]} == rpc_result("a", [1])

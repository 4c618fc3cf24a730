"""What a platform's answer means for the reply: tables of their published codes."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatkeep.channels import Delivered, Failed, Outcome, Retry, Uncertain

from ..support.outgoing import graph, outcome, verdict
from ..support.samples import CHANNELS, META


@pytest.mark.parametrize(
    ("name", "body", "expected"),
    [
        ("whatsapp", {"messages": [{"id": "wamid.OUT1"}], "contacts": []}, Delivered("wamid.OUT1")),
        ("messenger", {"recipient_id": "6001", "message_id": "m_out1"}, Delivered("m_out1")),
        ("instagram", {"recipient_id": "6001", "message_id": "i_out1"}, Delivered("i_out1")),
        ("telegram", {"ok": True, "result": {"message_id": 31, "chat": {"id": 8001}, "date": 1}}, Delivered("31")),
        ("telegram", {"ok": True, "result": True}, Delivered("")),
        ("webhook", b"", Delivered("")),
    ],
)
def test_success(name: str, body: Any, expected: Outcome) -> None:
    """With the platform's id, by which its statuses will speak of it."""
    assert expected == outcome(name, 200, body)


@pytest.mark.parametrize("name", [*META, "telegram"])
@pytest.mark.parametrize(
    "body", [b"", b"<html>", {}, {"messages": []}, {"ok": 1}, [], {"message_id": 7.5}, b"[" * 9999], ids=range(8)
)
def test_a_success_without_an_id_is_uncertain(name: str, body: Any) -> None:
    """A proxy's page is not the platform's word."""
    assert "Uncertain" == verdict(outcome(name, 200, body))


@given(
    name=st.sampled_from(list(CHANNELS)),
    status=st.integers(100, 599),
    body=st.one_of(
        st.binary(),
        st.builds(
            lambda code, sub: json.dumps(graph(code, sub)).encode(),
            st.integers() | st.text(),
            st.none() | st.lists(st.none()),
        ),
    ),
)
def test_every_answer_has_an_outcome(name: str, status: int, body: bytes) -> None:
    """Nothing that a server can answer raises."""
    assert isinstance(outcome(name, status, body), Delivered | Retry | Failed | Uncertain)

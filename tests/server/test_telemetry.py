"""Traces: a request, the message it brings and the turn that answers it are one trace, also in another process."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from starlette.middleware import Middleware

from chatkeep import Chatkeep
from chatkeep.auth.credentials import create_key
from chatkeep.server import create_app
from chatkeep.server.logs import RequestLogMiddleware
from chatkeep.server.metrics import Metrics
from chatkeep.server.telemetry import Tracing, TracingMiddleware, carried

from ..support.serving import Client, serving
from ..support.stores import FAST
from ..support.waiting import takes, until

EXPORTER = InMemorySpanExporter()
CALLER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture
def spans() -> Iterator[InMemorySpanExporter]:
    """What was traced; the provider is set once, as OpenTelemetry allows."""
    if not isinstance(trace.get_tracer_provider(), TracerProvider):
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(EXPORTER))
        trace.set_tracer_provider(provider)
    EXPORTER.clear()
    yield EXPORTER
    EXPORTER.clear()


def traced(url: str, handler: Any) -> Chatkeep[Any]:
    """A Chatkeep whose turns are traced."""
    keep: Chatkeep[Any] = Chatkeep(url, **FAST)
    if handler is not None:
        keep.on_message(handler)
    keep.instruments.append(Tracing())
    return keep


def tree(found: InMemorySpanExporter, trace_id: int) -> dict[str, str]:
    """The spans of one trace: name to the name of its parent."""
    own = [span for span in found.get_finished_spans() if context_of(span).trace_id == trace_id]
    names = {context_of(span).span_id: span.name for span in own}
    return {span.name: names.get(span.parent.span_id, "") if span.parent else "" for span in own}


def context_of(span: ReadableSpan) -> trace.SpanContext:
    """The span's own context."""
    found = span.get_span_context()
    assert found is not None
    return found


async def test_a_request_and_its_turn_are_one_trace_that_goes_on_the_callers(spans: InMemorySpanExporter) -> None:
    """HTTP request > receive > turn, under the caller's span; store acts within, also where something else counts them."""
    keep = traced("memory://trace", lambda turn: f"you said {turn.text}")
    metrics = Metrics(keep)
    app = create_app(keep, middleware=[Middleware(TracingMiddleware), Middleware(RequestLogMiddleware)])
    async with keep, serving(app) as port:
        client = Client(port, (await create_key(keep, "")).token)
        answer = await client.post("ada", {"content": "CANARY"}, {"traceparent": CALLER})
        await client.ask("GET", "/v1/conversations/ada")
    found = tree(spans, int(CALLER.split("-")[1], 16))
    route = "/v1/conversations/{id}/messages"

    assert 200 == answer.status
    assert ("", f"POST {route}", "chatkeep.receive") == (
        found[f"POST {route}"],
        found["chatkeep.receive"],
        found["chatkeep.turn"],
    )
    assert {"chatkeep.storage.store.append", "chatkeep.storage.store.write"} <= found.keys()
    counted = metrics.registry.get_sample_value("chatkeep_store_act_seconds_count", {"act": "write"})
    assert counted
    assert counted >= 1
    assert "CANARY" not in "".join(span.to_json() for span in spans.get_finished_spans())
    (request,) = [span for span in spans.get_finished_spans() if span.name == f"POST {route}"]
    assert {"http.request.method": "POST", "http.route": route, "http.response.status_code": 200} == dict(
        request.attributes or {}
    )


async def test_the_turn_in_another_process_belongs_to_the_trace_of_the_request(
    spans: InMemorySpanExporter, tmp_path: Any
) -> None:
    """Accepted by a Chatkeep without a bot, answered by another one on the same store."""
    url = f"sqlite:///{tmp_path}/chat.db"
    one: Chatkeep[Any] = Chatkeep(url)
    one.instruments.append(Tracing())
    async with one:
        with trace.get_tracer("test").start_as_current_span("caller") as caller:
            await one.accept("ada", "hello")
    async with traced(url, lambda turn: "hi") as two:

        async def answered() -> bool:
            found = await two.conversation("ada")
            return found is not None and not found.unread

        await until(answered)
    found = tree(spans, caller.get_span_context().trace_id)

    assert ("caller", "chatkeep.accept") == (found["chatkeep.accept"], found["chatkeep.turn"])


async def test_a_traceparent_that_a_client_puts_into_metadata_is_not_believed(spans: InMemorySpanExporter) -> None:
    """The trace context is the server's own."""
    keep = traced("memory://forged", lambda turn: "hi")
    async with keep:
        await keep.receive("ada", "hello", metadata={"traceparent": CALLER, "note": "kept"})
        found = await keep.conversation("ada")

    assert found is not None
    assert {} == tree(spans, int(CALLER.split("-")[1], 16))
    assert "kept" == found.messages[0].metadata["note"]
    assert {"note": "kept"} == carried({"traceparent": CALLER, "note": "kept"})  # where nothing is traced


async def test_a_turn_that_fails_says_so_without_its_words(spans: InMemorySpanExporter) -> None:
    """The span has the error's kind; the messages of two talks do not mix their traces."""

    async def handler(turn: Any) -> str:
        await takes(0.01)
        if turn.text == "break":
            raise RuntimeError("CANARY")
        return "ok"

    keep = traced("memory://fails", handler)
    async with keep:
        results = await asyncio.gather(
            *(keep.receive(name, text) for name, text in (("ada", "break"), ("bob", "hello"))), return_exceptions=True
        )
    turns = [span for span in spans.get_finished_spans() if span.name == "chatkeep.turn"]
    kinds = {(span.attributes or {}).get("error.type") for span in turns}

    assert isinstance(results[0], Exception)
    assert {"RuntimeError", None} == kinds
    assert 2 == len({context_of(span).trace_id for span in turns})
    assert "CANARY" not in "".join(span.to_json() for span in spans.get_finished_spans())

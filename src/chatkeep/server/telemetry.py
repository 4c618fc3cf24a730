"""Traces with OpenTelemetry: a span for each request, turn and act on the store. Without opentelemetry-api, nothing.

The request that brings a message leaves its trace context in the message's metadata ("traceparent", as W3C has it), so that
the turn that answers it, perhaps later and in another process, belongs to the same trace. Spans say what was done and how it
ended; no content, no state, no credential, and of an error only its kind.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..engine.instruments import Arrival, Instrument
from ..engine.run import RAN
from ..engine.turn import Turn
from ..extras import from_extra, is_installed
from .logs import METHODS, route_of

CAN_TRACE = is_installed("opentelemetry.trace")
if CAN_TRACE:
    with from_extra("telemetry", "Tracing"):
        from opentelemetry import context, trace
        from opentelemetry.trace import Span, SpanKind, StatusCode
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
    W3C = TraceContextTextMapPropagator()

TRACEPARENT = "traceparent"
NAME = "chatkeep"


def carried(metadata: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return *metadata* of a message that comes in, with the trace context of now in place of whatever the sender put there."""
    own = {name: value for name, value in (metadata or {}).items() if name != TRACEPARENT}
    carrier: dict[str, str] = {}
    if CAN_TRACE:
        W3C.inject(carrier)
    if TRACEPARENT in carrier:
        own[TRACEPARENT] = carrier[TRACEPARENT]
    return own or None


class TracingMiddleware:
    """Middleware: a span for each request, as part of the caller's trace if there is one."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if not CAN_TRACE or scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        came = {
            name.decode("latin-1"): value.decode("latin-1")
            for name, value in scope["headers"]
            if name.startswith(b"trace")
        }
        method = scope["method"] if scope["method"] in METHODS else "other"
        tracer = trace.get_tracer(NAME)
        span = tracer.start_span(method, context=W3C.extract(came), kind=SpanKind.SERVER)
        token = context.attach(trace.set_span_in_context(span))
        status = 500

        async def send_seen(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        try:
            await self.app(scope, receive, send_seen)
        finally:
            context.detach(token)
            if span.is_recording():
                route = route_of(scope)
                span.update_name(f"{method} {route}")
                span.set_attributes(
                    {"http.request.method": method, "http.route": route, "http.response.status_code": status}
                )
                if status >= 500:
                    span.set_status(StatusCode.ERROR)
            span.end()


class Tracing(Instrument):
    """Makes a span for each message that comes in, each turn and each act on the store."""

    @contextmanager
    def arrival(self, arrival: Arrival) -> Iterator[None]:
        """Surround a message that comes in, which carries its trace context on."""
        tracer = trace.get_tracer(NAME)
        with tracer.start_as_current_span(
            f"chatkeep.{arrival.verb}", record_exception=False, set_status_on_exception=False
        ) as span:
            arrival.metadata = carried(arrival.metadata) or {}
            with marked(span):
                yield
            if arrival.receipt is not None:
                status, duplicate = arrival.receipt.status, arrival.receipt.duplicate
                span.set_attributes({"chatkeep.status": status, "chatkeep.duplicate": duplicate})

    @contextmanager
    def turn(self, turn: Turn[Any]) -> Iterator[None]:
        """Surround a run of the handler, as part of the trace of the message that it answers."""
        came = turn.message.metadata.get(TRACEPARENT)
        parent = W3C.extract({TRACEPARENT: came}) if isinstance(came, str) else context.Context()
        span = trace.get_tracer(NAME).start_span("chatkeep.turn", context=parent, kind=SpanKind.CONSUMER)
        # Not detached: what records this turn comes after the handler, and belongs to it.
        context.attach(trace.set_span_in_context(span))
        try:
            with marked(span):
                yield
        finally:
            span.set_attribute("chatkeep.messages", len(turn.messages))
            span.end()

    def measured(self, name: str, seconds: float) -> None:
        """Make the span of an act on the store, if it was done for a message or turn that has one."""
        ran = RAN.get()
        current = trace.get_current_span() if ran is None else ran.run(trace.get_current_span)
        if name != "turn" and current.get_span_context().is_valid:  # one that nobody asked for makes no trace
            now = time.time_ns()
            span = trace.get_tracer(NAME).start_span(
                f"chatkeep.storage.store.{name}",
                context=trace.set_span_in_context(current),
                kind=SpanKind.CLIENT,
                start_time=now - int(seconds * 1e9),
            )
            span.end(now)


@contextmanager
def marked(span: Span) -> Iterator[None]:
    """Mark *span* as failed by what is raised inside, of which it says only the kind."""
    try:
        yield
    except BaseException as fault:
        span.set_status(StatusCode.ERROR)
        span.set_attribute("error.type", type(fault).__qualname__)
        raise

"""`request.state.chat` in ASGI applications: Starlette, FastAPI and plain ones; what goes out in the headers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from fastapi import FastAPI, Request
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.testclient import TestClient
from starlette.websockets import WebSocket

from chatkeep import HandlerFailed, TooLarge, Turn, UsageError
from chatkeep.cookie import CookieChat, clear_cookie

KEY = "a key of at least sixteen bytes"


async def bot(turn: Turn) -> str:
    """Counts, fills the state, clears, fails."""
    turn.state["count"] = turn.state.get("count", 0) + 1
    if turn.text == "fill":
        turn.state |= {"cart": ["pizza"] * 1000, "note": "x" * 900}
    if turn.text == "complete":
        clear_cookie(turn)
    if turn.text == "fail":
        raise ValueError("no")
    return f"That was message {turn.state['count']}."


async def say(request: Any) -> Response:
    """The body is a message; answers the reply."""
    receipt = await request.state.chat.receive((await request.body()).decode(), id=request.query_params.get("id"))
    return JSONResponse({"reply": receipt.replies[0].text, "lost": request.state.chat.lost})


def starlette_app(**options: Any) -> Any:
    """An application of Starlette, wrapped."""
    routes = [Route("/say", say, methods=["POST"]), Route("/", lambda request: PlainTextResponse("hello"))]
    return CookieChat(bot, keys=[KEY], **options)(Starlette(routes=routes))


def fastapi_app(**options: Any) -> Any:
    """One of FastAPI, wrapped."""
    app = FastAPI()

    @app.post("/say")
    async def endpoint(request: Request) -> Any:
        receipt = await request.state.chat.receive((await request.body()).decode(), id=request.query_params.get("id"))
        return {"reply": receipt.replies[0].text, "lost": request.state.chat.lost}

    @app.get("/")
    async def page() -> str:
        return "hello"

    return CookieChat(bot, keys=[KEY], **options)(app)


def inner_app(**options: Any) -> Any:
    """One that has it among its middleware."""
    app = Starlette(
        routes=[Route("/say", say, methods=["POST"]), Route("/", lambda request: PlainTextResponse("hello"))]
    )
    app.add_middleware(CookieChat(bot, keys=[KEY], **options))  # type: ignore[arg-type]
    return app


APPS = [starlette_app, fastapi_app, inner_app]


@pytest.mark.parametrize("make", APPS)
def test_a_chat_is_remembered_from_request_to_request(make: Any) -> None:
    """In any process; a request that says nothing sets nothing."""
    first, second = TestClient(make()), TestClient(make())
    assert "That was message 1." == first.post("/say", content="hello").json()["reply"]
    assert "That was message 2." == first.post("/say", content="again").json()["reply"]
    second.cookies = first.cookies
    quiet = first.get("/")

    assert "That was message 3." == second.post("/say", content="elsewhere").json()["reply"]
    assert (200, False, False) == (quiet.status_code, "set-cookie" in quiet.headers, "cache-control" in quiet.headers)


@pytest.mark.parametrize("make", APPS)
def test_too_much_is_413_with_the_largest_slots_named(make: Any) -> None:
    """The turn did not happen: the cookie stays, the next message goes on from before."""
    http = TestClient(make())
    http.post("/say", content="hello")
    before = dict(http.cookies)
    refused = http.post("/say", content="fill")
    problem = refused.json()

    assert (413, "application/problem+json") == (refused.status_code, refused.headers["content-type"])
    assert ("urn:chatkeep:too-large", 413) == (problem["type"], problem["status"])
    assert "cart (8,001 bytes), note (902 bytes), count (1 bytes)" in problem["detail"]
    assert "set-cookie" not in refused.headers
    assert before == dict(http.cookies)
    assert "That was message 2." == http.post("/say", content="again").json()["reply"]


@pytest.mark.parametrize("make", APPS)
def test_what_cannot_be_stored_is_422(make: Any) -> None:
    """Whoever visits can send it, so it is no fault of the server's: nothing happened, and the cookie stays."""
    http = TestClient(make())
    http.post("/say", content="hello")
    before = dict(http.cookies)
    refused = [http.post("/say", content="a\0b"), http.post("/say?id=~a", content="hello")]
    http.post("/say?id=m1", content="hello")
    reused = http.post("/say?id=m1", content="goodbye")

    assert ["urn:chatkeep:bad-message"] * 2 == [answer.json()["type"] for answer in refused]
    assert [(422, "application/problem+json", False)] * 2 == [
        (answer.status_code, answer.headers["content-type"], "set-cookie" in answer.headers) for answer in refused
    ]
    assert (422, "urn:chatkeep:key-reused") == (reused.status_code, reused.json()["type"])
    assert before != dict(http.cookies)
    assert "That was message 3." == http.post("/say", content="again").json()["reply"]


@pytest.mark.parametrize("make", APPS)
def test_a_cookie_that_cannot_be_opened_begins_a_fresh_chat(make: Any) -> None:
    """And is replaced."""
    http = TestClient(make(), cookies={"chat": "AS" * 200})

    assert {"reply": "That was message 1.", "lost": "unreadable"} == http.post("/say", content="hello").json()
    http.cookies.delete("chat", domain="")
    assert {"reply": "That was message 2.", "lost": ""} == http.post("/say", content="hello").json()


@pytest.mark.parametrize("make", APPS)
def test_a_handler_that_fails_is_the_applications_to_answer(make: Any) -> None:
    """It is raised; the cookie stays."""
    http = TestClient(make())
    http.post("/say", content="hello")
    with pytest.raises(HandlerFailed, match="ValueError: no"):
        http.post("/say", content="fail")
    quiet = TestClient(make(), raise_server_exceptions=False, cookies=http.cookies).post("/say", content="fail")

    assert (500, False) == (quiet.status_code, "set-cookie" in quiet.headers)
    assert "That was message 2." == http.post("/say", content="again").json()["reply"]


def test_the_cookie_is_cleared_when_the_order_is_complete() -> None:
    """The client has none any more."""
    http = TestClient(starlette_app())
    http.post("/say", content="hello")
    http.post("/say", content="complete")

    assert {} == dict(http.cookies)
    assert "That was message 1." == http.post("/say", content="hello").json()["reply"]


@pytest.mark.parametrize(
    ("address", "options", "name", "secure"),
    [
        ("https://shop.example.com", {}, "__Host-chat", True),
        ("http://shop.example.com", {}, "__Host-chat", True),  # behind something that speaks TLS and does not tell
        ("http://shop.example.com:8000", {"path": "/shop"}, "chat", True),
        ("http://8.8.8.8", {}, "__Host-chat", True),
        ("http://[2606:4700::1111]:80", {}, "__Host-chat", True),
        ("https://localhost", {}, "__Host-chat", True),
        ("http://testserver", {}, "chat", False),
        ("http://localhost:8000", {}, "chat", False),
        ("http://127.0.0.1:8000", {}, "chat", False),
        ("http://192.168.1.7", {}, "chat", False),
        ("http://[::1]:8000", {}, "chat", False),
        ("http://shop.localhost", {}, "chat", False),
        ("http://shop.example.com", {"secure": False, "name": "order"}, "order", False),
        ("http://localhost", {"secure": True, "same_site": "strict"}, "__Host-chat", True),
    ],
)
def test_what_the_cookie_is_marked_with(address: str, options: dict[str, Any], name: str, secure: bool) -> None:
    """HttpOnly, SameSite, Path and Max-Age always; Secure but for plain http on hosts that are not public."""
    answer = TestClient(starlette_app(max_age="30m", **options), base_url=address).post("/say", content="hello")
    pair, *attributes = answer.headers["set-cookie"].split("; ")
    wanted = ["Max-Age=1800", f"Path={options.get('path', '/')}", "HttpOnly"]
    wanted.append(f"SameSite={options.get('same_site', 'lax').capitalize()}")

    assert name == pair.partition("=")[0]
    assert wanted + ["Secure"] * secure == attributes


def test_a_cookie_of_one_host_is_none_of_another() -> None:
    """Though the key is the same; the port does not count."""
    shop = TestClient(starlette_app(), base_url="http://shop:80")
    shop.post("/say", content="hello")
    cookie = {"Cookie": f"chat={shop.cookies['chat']}"}

    def said(address: str, **options: Any) -> Any:
        return TestClient(starlette_app(**options), base_url=address).post("/say", content="hi", headers=cookie).json()

    assert {"reply": "That was message 2.", "lost": ""} == said("http://shop:8000")
    assert {"reply": "That was message 2.", "lost": ""} == said("http://SHOP")
    assert {"reply": "That was message 1.", "lost": "unreadable"} == said("http://other")
    assert {"reply": "That was message 2.", "lost": ""} == said("http://other", host="shop")


def test_an_answer_with_a_cookie_is_kept_by_no_cache() -> None:
    """Whatever the application says of it."""

    async def cached(request: Any) -> Response:
        await request.state.chat.receive("hello")
        return PlainTextResponse("x", headers={"Cache-Control": "public, max-age=600", "Set-Cookie": "own=1"})

    app = CookieChat(bot, keys=[KEY])(Starlette(routes=[Route("/", cached)]))
    answer = TestClient(app).get("/")

    assert ["no-store"] == answer.headers.get_list("cache-control")
    assert ["own=1", "chat="] == [one[:5] for one in answer.headers.get_list("set-cookie")]


def test_an_application_may_answer_what_is_too_large_itself() -> None:
    """Its answer stands, whatever it is, where it has caught it."""

    async def caught(request: Any) -> Response:
        try:
            await request.state.chat.receive("fill")
        except TooLarge as refused:
            return PlainTextResponse(str(refused), status_code=422)
        return PlainTextResponse("")

    async def handled(request: Request, fault: Exception) -> Response:
        return PlainTextResponse("too much", status_code=400)

    routes = [Route("/", caught), Route("/say", say, methods=["POST"])]
    http = TestClient(CookieChat(bot, keys=[KEY])(Starlette(routes=routes, exception_handlers={TooLarge: handled})))

    assert 422 == http.get("/").status_code
    assert (400, "too much") == ((answer := http.post("/say", content="fill")).status_code, answer.text)


def test_what_comes_after_the_headers_is_a_loud_error() -> None:
    """In a stream, in a background task, in a websocket: nothing is recorded that could not reach the browser."""
    told: list[str] = []

    async def late(chat: Any) -> None:
        try:
            await chat.receive("late")
        except UsageError as fault:
            told.append(str(fault))

    async def stream(request: Any) -> Response:
        async def pieces() -> AsyncIterator[str]:
            yield "piece"
            await late(request.state.chat)

        return StreamingResponse(pieces())

    async def later(request: Any) -> Response:
        return PlainTextResponse("x", background=BackgroundTask(late, request.state.chat))

    async def socket(websocket: WebSocket) -> None:
        await websocket.accept()
        await late(websocket.state.chat)
        await websocket.send_text("done")

    routes = [Route("/stream", stream), Route("/later", later), WebSocketRoute("/socket", socket)]
    http = TestClient(CookieChat(bot, keys=[KEY])(Starlette(routes=routes)))
    assert ("piece", "x") == (http.get("/stream").text, http.get("/later").text)
    with http.websocket_connect("/socket") as connection:
        assert "done" == connection.receive_text()

    assert ["nothing was recorded" in one for one in told] == [True] * 3
    assert {} == dict(http.cookies)


async def test_what_is_too_large_in_a_plain_application_is_answered_too() -> None:
    """Where no framework makes an answer of what is raised; once the answer has begun it is raised on."""
    sent: list[Any] = []

    async def send(event: Any) -> None:
        sent.append(event)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/late":
            await send({"type": "http.response.start", "status": 200})
            raise TooLarge("mine")
        await scope["state"]["chat"].receive("fill")

    wrapped = CookieChat(bot, keys=[KEY])(app)
    scope = {"type": "http", "path": "/", "scheme": "http", "headers": [(b"host", b"localhost")]}
    await wrapped(scope, None, send)  # type: ignore[arg-type]
    assert [413, "http.response.body"] == [sent[0]["status"], sent[1]["type"]]
    with pytest.raises(TooLarge, match="mine"):
        await wrapped(scope | {"path": "/late"}, None, send)  # type: ignore[arg-type]
    assert "state" not in scope


async def test_many_visitors_at_once() -> None:
    """Fifty, ten messages each, all at the same time in one process: each has a conversation of its own."""
    wrapped = CookieChat(bot, keys=[KEY])

    async def visitor(number: int) -> list[str]:
        cookie, heard = "", []
        for _ in range(10):
            async with wrapped.chat(cookie, host="localhost") as chat:
                receipt = await chat.receive(f"{number}")
                heard.append(receipt.replies[0].text)
                cookie = dict(chat.headers())["set-cookie"].partition(";")[0]
        return heard

    found = await asyncio.gather(*map(visitor, range(50)))

    assert [[f"That was message {number}." for number in range(1, 11)]] * 50 == found

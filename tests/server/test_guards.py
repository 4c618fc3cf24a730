"""What stands around every address: hosts that are answered for, and headers of every answer."""

from __future__ import annotations

from ..support.bots import counting
from ..support.serving import path_of, served


async def test_a_request_under_another_name_is_refused() -> None:
    """A page of another site that points its own name at this machine gets nothing."""
    hosts = {
        "localhost": 200,
        "LOCALHOST:80": 200,
        "127.0.0.1:1234": 200,
        "[::1]:80": 200,
        "evil.example": 400,
        "localhost.evil.example": 400,
        "127.0.0.1.evil.example": 400,
        "10.0.0.7:8765": 200,
        "[fd00::7]": 200,
        "": 200,
    }
    async with served(counting()) as client:
        found = {host: (await client.ask("GET", "/healthz", headers={"Host": host})).status for host in hosts}
        posted = await client.post("ada", {"content": "x"}, {"Host": "evil.example"})
        by_number = await client.post("ada", {"content": "x"}, {"Host": "10.0.0.7"})
        log = await client.log("ada")

    assert hosts == found
    assert [400, 400] == [posted.status, by_number.status]
    assert [] == log


async def test_every_answer_is_guarded() -> None:
    """Page, script, API, problem and refused host carry the security headers; the page has nothing inline."""
    async with served(counting(), title="Pizza & <script>") as client:
        paths = ["/", "/chat.js", "/chat.css", "/chat.svg", "/healthz", "/nothing", path_of("ada")]
        answers = [await client.ask("GET", path) for path in paths]
        answers.append(await client.ask("GET", "/", headers={"Host": "evil.example"}))

    for answer in answers:
        data = answer.headers["content-type"] in ("application/json", "application/problem+json")
        assert answer.headers["content-security-policy"].startswith("default-src 'none'; ")
        assert ("script-src 'self'" in answer.headers["content-security-policy"]) == (not data)
        assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
        assert ("x-frame-options" in answer.headers) == (not data)
        assert "same-origin" == answer.headers["cross-origin-resource-policy"]
        assert "unsafe" not in answer.headers["content-security-policy"]
        assert "nosniff" == answer.headers["x-content-type-options"]
    page = answers[0].body.decode()
    assert "<title>Pizza &amp; &lt;script&gt;</title>" in page
    assert "style=" not in page
    assert [b"text/html", b"text/javascript", b"text/css", b"image/svg+xml"] == [
        answer.headers["content-type"].partition(";")[0].encode() for answer in answers[:4]
    ]

"""The checklist of the tutoring chat: searches, matches and half-filled forms that were gone after a refresh."""

from __future__ import annotations

import re
import signal
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, expect

from ..support.browsing import profile
from ..support.chat_page import ask, opened, ready, settled, write
from ..support.program import Demo
from ..support.rows import Visitor, answered, durable, instance, place
from ..support.serving import Client

FIRST, OTHERS = ["Maya Lind", "Jonas Weber", "Priya Nair"], ["Tomas Silva", "Ada Okoro"]
"""Who teaches math at high school, as the desk shows them."""


@durable
async def test_d2_a_session_holds_typed_slots(url: str, tmp_path: Path) -> None:
    """Messages, last search, available tutors, pending match and the form in progress: each readable by itself after a kill, and
    nothing of another type can be written into them."""
    async with instance(tmp_path, "tutoring", url, pace_s=0.0) as it:
        visitor = await Visitor.of(it)
        await visitor.ask("a math tutor for high school")
        await it.restart()
        searched = {slot: await visitor.state(slot) for slot in ("subject", "level", "offered")}
        await visitor.ask("show me other tutors")
        await visitor.ask("Tomas Silva")
        await visitor.ask("friday")
        await it.restart()
        form, shown, offered = [await visitor.state(slot) for slot in ("form", "shown", "offered")]
        log = await visitor.client.log(visitor.conversation)
        operator = await it.operator()
        wrong = [
            await put(operator, visitor.conversation, slot, value)
            for slot, value in (("offered", "Maya"), ("form", {"day": 5}), ("subject", 7))
        ]
        after = await visitor.state()
        answer = await visitor.ask("16:30")

    assert {"subject": "math", "level": "high school", "offered": FIRST} == searched
    assert (FIRST + OTHERS, OTHERS) == (shown, offered)
    assert ("Tomas Silva", True, "", "") == (
        form["tutor"],
        form["day"].startswith("Fri "),
        form["time"],
        form["student"],
    )
    assert 4 == len([message for message in log if message["role"] == "user"])
    assert [422, 422, 422] == wrong
    assert form == after["form"]
    assert "student's name" in answer


async def put(client: Client, conversation: str, slot: str, value: Any) -> int:
    """Replaces a slot of the state; the status of the answer."""
    answer = await answered(client, "PUT", place(conversation, f"state/{slot}"), value, **{"If-Match": "*"})
    return answer.status


@pytest.mark.journey
def test_d5_after_a_refresh_the_page_goes_on_where_it_was(tmp_path: Path, person: BrowserContext) -> None:
    """ "Show me other tutors" after a refresh shows others; a half-filled form asks for what is missing after a refresh, a kill and
    both, and half-typed words are still there."""
    with Demo(tmp_path, "tutoring", "--store", "desk.db") as demo:
        page = opened(person, demo.address)
        ask(page, "a math tutor for high school", "These fit (math, high school)")
        settled(page)
        page.reload()
        ready(page)
        ask(page, "show me other tutors", "There are also (math, high school)")
        expect(page.locator("#log > li").last).to_contain_text("Tomas Silva")
        page.get_by_role("button", name="Tomas Silva").click()
        expect(page.locator("#log > li").last).to_contain_text("Which day suits you?")
        settled(page)
        demo.stop(signal.SIGKILL)
        demo.start()
        page.reload()
        ready(page)
        write(page, "friday")
        expect(page.locator("#log > li").last).to_contain_text("At what time?")
        settled(page)
        page.get_by_label("Your message").fill("16:")
        page.reload()
        ready(page)
        expect(page.get_by_label("Your message")).to_have_value("16:")
        expect(page.get_by_role("button", name="16:30")).to_be_visible()
        ask(page, "16:30", "What is the student's name?")
        ask(page, "Kim", "Where can we reach you?")
        ask(page, "kim@example.com", "Tomas Silva on Fri")
        ask(page, "confirm", "Your reference is TD-")


@durable
async def test_d6_a_session_is_shared_by_a_token_that_works_once(url: str, tmp_path: Path) -> None:
    """The other device goes on with the same form, also after a kill; the share is used up, and opens nothing else."""
    async with instance(tmp_path, "tutoring", url, pace_s=0.0) as it:
        one, stranger = await Visitor.of(it), await Visitor.of(it)
        for words in ("a math tutor for high school", "Maya Lind", "friday"):
            await one.ask(words)
        shared = (await answered(one.client, "POST", place(one.conversation, "shares"), {})).json
        looking = (await answered(one.client, "POST", place(one.conversation, "shares"), {"scopes": ["read"]})).json
        await it.restart()
        redeemed = [
            await answered(it.visitor, "POST", "/v1/shares/redeem", {"share": share})
            for share in (shared["share"], shared["share"], looking["share"])
        ]
        two = Visitor(Client(it.port, redeemed[0].json["token"]), redeemed[0].json["id"])
        reader = Client(it.port, redeemed[2].json["token"])
        answer = (await two.say("16:30", id="from the telephone"))["replies"]
        seen = await one.client.log(one.conversation)
        written = await answered(reader, "POST", place(one.conversation, "messages"), {"content": "hi", "id": "x"})
        foreign = await answered(two.client, "GET", place(stranger.conversation))

    assert [201, 404, 201] == [each.status for each in redeemed]
    assert (one.conversation, True) == (two.conversation, "student's name" in str(answer))
    assert ["16:30", answer[0]["content"]] == [message["content"] for message in seen[-2:]]
    assert [403, 404] == [written.status, foreign.status]


def test_d6_a_link_opens_the_session_on_a_telephone(tmp_path: Path, browser: Browser) -> None:
    """From the share dialog of one browser to another one, in the middle of the form; each sees what the other writes."""
    with (
        Demo(tmp_path, "tutoring", "--store", "desk.db") as demo,
        profile(browser) as person,
        profile(browser, viewport={"width": 390, "height": 844}) as telephone,
    ):
        page = opened(person, demo.address)
        ask(page, "a physics tutor for university", "Noor Haddad")
        ask(page, "Noor Haddad", "Which day suits you?")
        settled(page)
        page.get_by_role("button", name="Share").click()
        link = page.get_by_role("textbox", name="Link")
        expect(link).to_have_value(re.compile(f"^{demo.address}#share=ck_h_"))
        there = telephone.new_page()
        there.goto(link.input_value())
        there.get_by_role("button", name="Open the shared chat").click()
        ready(there)
        expect(there.locator("#log > li").last).to_contain_text("Which day suits you?")
        ask(there, "friday", "At what time?")
        page.keyboard.press("Escape")
        expect(page.locator("#log > li").last).to_contain_text("At what time?")
        ask(page, "18:00", "What is the student's name?")
        expect(there.locator("#log > li").last).to_contain_text("What is the student's name?")

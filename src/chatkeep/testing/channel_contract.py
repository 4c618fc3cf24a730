"""What every channel must do, one test for each clause: `ChannelContract`. Below it stand the channels that break them.

For channels of the package and for those of others alike: a sample is what a platform posts, and what is to be read out of it.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar
from unittest import SkipTest

import msgspec
from msgspec import Struct

from ..channels import (
    Challenge,
    Channel,
    Delivered,
    Failed,
    Inbound,
    Outcome,
    Received,
    Refused,
    Request,
    Response,
    Retry,
    Status,
    Uncertain,
    Unknown,
    Webhook,
    address_of,
)
from ..channels.base import Pairs
from ..channels.bodies import EXACT
from ..conversation.codec import entry_for
from ..conversation.keys import key_for
from ..errors import Misconfigured
from ..model import Content

NOW = 1_763_700_000.0
"""The time at which requests are signed and verified here, in seconds since 1970."""

LIMIT = 1 << 20

HOSTILE = (
    b"",
    b"nul",
    b"[]x",
    b"\xef\xbb\xbf{}",
    b"\x1f\x8b\x08",
    b"\xff\xfe{\0}\0",
    b"1" * 5000,
    b"[" * 100_000,
    b'{"a":' * 100_000,
    b"null",
    b'"text"',
    b"7",
)
"""Bodies that no platform publishes, but who knows its secret can post."""

DAMAGE: tuple[Any, ...] = (
    None,
    True,
    -1,
    0.5,
    10**400,
    "",
    "\0",
    "\ud800",
    "~x",
    "x" * 600,
    [],
    {},
    [None],
    {"a": [1]},
)
"""What may stand in any place of a body by mistake, or by malice."""


class Sample(Struct, frozen=True, kw_only=True):
    """One body that a platform posts, and what is to be read out of it, as `shown` shows it.

    headers: those that `Channel.parse` needs beside the body, if any.
    """

    name: str
    body: Any
    expected: list[dict[str, Any]]
    headers: tuple[tuple[str, str], ...] = ()

    @property
    def raw(self) -> bytes:
        """The body as it is posted."""
        return self.body.encode() if isinstance(self.body, str) else json.dumps(self.body).encode()


def shown(found: Sequence[Inbound]) -> list[dict[str, Any]]:
    """Return what was parsed as a sample has it: one object each, by the name of its kind, without what is empty."""
    return [
        {
            type(one).__name__: {
                member: value if member == "raw" else json.loads(msgspec.json.encode(value))
                for member, value in msgspec.structs.asdict(one).items()
                if value not in (None, "", {}, ())
            }
        }
        for one in found
    ]


class ChannelContract:
    """Test that a channel keeps its contract; each method that begins with test_ is one clause.

        class TestBell(ChannelContract):
            corpus = Path(__file__).parent / "corpus"

            def channel(self):
                return Bell("door", secrets=SECRET, url="https://bell.example/replies")

            def signed(self, body):
                return [("x-bell-signature", sign(SECRET, body))]

    The *corpus* is a folder with one JSON file for each kind of thing that the platform posts: {"body": ..., "expected": [...]},
    and "headers", a list of pairs, where `parse` reads some. "expected" is what `shown(channel.parse(body))` gives: write it once
    by hand, and the clause on samples compares. `signed` signs at the time `NOW`, at which `verify` is asked. Handshakes, and
    signatures that are too old, are not tried. docs/how-to/channels.md has a channel with its tests.
    """

    corpus: ClassVar[Path | None] = None
    """The folder with the samples."""

    signs_bodies: ClassVar[bool] = True
    """False where the platform sends a secret beside the body and signs nothing."""

    def channel(self) -> Channel:
        """Return the channel, with secrets and an account of its own."""
        raise NotImplementedError("say how your channel is made")

    def signed(self, body: bytes) -> list[tuple[str, str]]:
        """Return the headers with which the platform posts *body* at `NOW`; the one with the signature is the last one."""
        raise NotImplementedError("say how the platform signs")

    def samples(self) -> list[Sample]:
        """Return what the platform posts: the files of *corpus*, by name."""
        assert self.corpus is not None, "say where the samples are: corpus = Path(__file__).parent / 'corpus'"
        found = [(path.stem, json.loads(path.read_text("utf-8"))) for path in sorted(self.corpus.glob("*.json"))]
        assert found, f"there are no samples in {self.corpus}"
        return [
            Sample(
                name=name,
                body=one["body"],
                expected=one["expected"],
                headers=tuple((key, value) for key, value in one.get("headers", ())),
            )
            for name, one in found
        ]

    # What it is.

    def test_it_says_what_it_is(self) -> None:
        """Its name can begin an id; accounts, and whether it is idempotent and one-way, are told."""
        channel = self.channel()

        assert re.fullmatch(r"[a-z0-9_.-]{1,32}", channel.name), f"the name {channel.name!r} cannot begin an id"
        assert channel.one_way or channel.accounts, "it has no account that replies could go out from"
        assert all([isinstance(account, str) and account and ":" not in account for account in channel.accounts])
        assert [bool, bool] == [type(channel.idempotent), type(channel.one_way)]
        assert 0 < channel.rate

    # Who has sent it.

    def test_what_the_platform_signs_is_taken(self) -> None:
        """Whatever the letters of the headers' names; a POST is no handshake."""
        channel, body = self.channel(), self.samples()[0].raw
        good = self.signed(body)

        assert None is channel.verify("POST", good, [], body, at=NOW)
        assert None is channel.verify("POST", [(name.upper(), value) for name, value in good], [], body, at=NOW)

    def test_every_wrong_signature_is_the_same_refusal(self) -> None:
        """Missing, empty, doubled, cut, longer, not ASCII, half a character: `Refused`, and nothing else is raised."""
        body = self.samples()[0].raw
        *rest, (name, value) = self.signed(body)
        wrong = ["", " ", value[:-1], value + "0", "é" * 64, "\udcff", "null", "0" * len(value)]
        tried: list[list[tuple[str, str]]] = [[*rest, (name, one)] for one in wrong]
        tried += [[], rest, [*rest, (name, value), (name, value)], [*rest, (name, value), (name, "x")]]
        for headers in tried:
            self._refuses(headers, body)

    def test_a_signature_holds_for_these_bytes_only(self) -> None:
        """A space more, or the same JSON written anew, is another body."""
        if not self.signs_bodies:
            raise SkipTest("the platform signs no bodies")
        body = self.samples()[0].raw
        for other in (b"", body + b" ", b" " + body, body[:-1]):
            self._refuses(self.signed(body), other)

    def test_other_methods_are_refused(self) -> None:
        """A good signature under another method says nothing."""
        body = self.samples()[0].raw
        for method in ("PUT", "DELETE", "HEAD", "post", ""):
            self._refuses(self.signed(body), body, method=method)

    # What it says.

    def test_the_samples_are_read_as_recorded(self) -> None:
        """Each kind of message, status and event becomes what its sample says."""
        channel = self.channel()
        for sample in self.samples():
            assert (sample.name, sample.expected) == (sample.name, shown(channel.parse(sample.raw, sample.headers)))

    def test_a_redelivery_has_the_same_ids(self) -> None:
        """The same body, parsed again, names everything as before; within one body no two things share an id."""
        channel = self.channel()
        for sample in self.samples():
            ids, again = (
                [one.id for one in channel.parse(sample.raw, sample.headers) if isinstance(one, Received | Unknown)]
                for _ in range(2)
            )

            assert (sample.name, ids) == (sample.name, again)
            assert len(ids) == len(set(ids)), f"{sample.name}: two things have one id: {ids}"

    def test_what_is_received_can_be_stored(self) -> None:
        """Ids, content, metadata and times; and a reply finds channel and account in the conversation's id."""
        channel = self.channel()
        for sample in self.samples():
            for one in channel.parse(sample.raw, sample.headers):
                store(one)
                if isinstance(one, Received):
                    assert (channel.name, one.account) == address_of(one.conversation)[:2]
                    channel.acknowledge(one)
                    channel.notice(one)

    def test_a_damaged_body_raises_nothing_and_loses_nothing(self) -> None:
        """Whatever stands in whatever place: ids that are still in the body are in what was found, and all of it can be stored."""
        channel = self.channel()
        for sample in self.samples():
            if isinstance(sample.body, str):
                continue
            ids = [one["id"] for kind in sample.expected for one in kind.values() if "id" in one]
            for number, place in enumerate(places(sample.body)):
                for damage in DAMAGE[number % 4 :: 4]:  # the others fall on other places
                    text = json.dumps(put(sample.body, place, damage))
                    found = channel.parse(text.encode(), sample.headers)
                    there = json.dumps(shown(found))

                    assert [] == [id for id in ids if json.dumps(id) in text and json.dumps(id)[1:-1] not in there], (
                        f"{sample.name}: with {damage!r:.40} at {place}, something was left out"
                    )
                    for one in found:
                        store(one)

    def test_any_bytes_are_kept(self) -> None:
        """What is not of a published shape is shown as unknown, and neither raised nor dropped."""
        channel = self.channel()
        for body in HOSTILE:
            found = channel.parse(body)

            assert found, f"nothing was made of {body[:20]!r}"
            assert {Unknown} == {type(one) for one in found}

    # What goes out.

    def test_a_reply_is_the_same_requests_each_time(self) -> None:
        """Sent again it has the same keys, which begin with the reply's own."""
        channel = self._both_ways()
        account = min(channel.accounts)
        for content in ("hello", "long " * 3000, [{"type": "text", "text": "hello"}]):
            sent, again = (
                channel.requests(content, account=account, to=self._address(), key="r1", at=NOW) for _ in range(2)
            )

            assert sent, f"{content!r:.40} makes no request"
            assert sent == again
            assert len(sent) == len({request.key for request in sent})
            assert all([request.key.split("/")[0] == "r1" for request in sent])

    def test_an_account_without_credentials_sends_nothing(self) -> None:
        """It is `Misconfigured`, which says so before anything is sent."""
        channel = self._both_ways()
        try:
            channel.requests("hello", account="nobody-s", to=self._address(), key="r1", at=NOW)
        except Misconfigured:
            return
        raise AssertionError("requests were made for an account that nobody has given")

    def test_every_answer_has_an_outcome(self) -> None:
        """Whatever the platform answers; and what it has refused was not delivered."""
        channel = self._both_ways()
        for status in (200, 201, 204, 301, 400, 401, 403, 404, 409, 413, 422, 429, 500, 502, 503):
            for body in (*HOSTILE[:8], b"{}", b"[]", b'{"error": null}', b'{"error": {"code": "x"}}', b'{"ok": 1}'):
                outcome = channel.outcome(Response(status, {"retry-after": "soon"}, body))

                assert isinstance(outcome, Delivered | Retry | Failed | Uncertain)
                assert not (status >= 400 and isinstance(outcome, Delivered)), f"HTTP {status} is taken for delivered"

    def _both_ways(self) -> Channel:
        channel = self.channel()
        if channel.one_way:
            raise SkipTest("it only listens")
        return channel

    def _address(self) -> str:
        """Return the address of a customer who has written."""
        channel = self.channel()
        found = [one for sample in self.samples() for one in channel.parse(sample.raw, sample.headers)]
        return next(one.to for one in found if isinstance(one, Received))

    def _refuses(self, headers: list[tuple[str, str]], body: bytes, *, method: str = "POST") -> None:
        try:
            answer = self.channel().verify(method, headers, [], body, at=NOW)
        except Refused:
            return
        raise AssertionError(f"{method} with {headers!r:.200} was taken, and answered {answer!r}")


def store(one: Inbound) -> None:
    """Raise what the core would refuse to take of *one*."""
    times = [one.at, one.until] if isinstance(one, Status) else [one.at] if isinstance(one, Received) else []
    for at in times:
        assert at is None or (type(at) in (int, float) and abs(at) <= EXACT), (
            f"{at!r:.40} is no time in seconds since 1970"
        )
    if isinstance(one, Status):
        return
    if isinstance(one, Received):
        key = key_for("", one.conversation)
        entry_for(key, one.content, id=one.id, role=one.role, created_at=0, limit=LIMIT, metadata=one.metadata)
    elif one.conversation:
        key_for("", one.conversation)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Return every place in a JSON value."""
    yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, item in inner:
        yield from places(item, (*path, name))


def put(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    """Return *value* with another thing at *path*."""
    if not path:
        return new
    found = value.copy()  # what the path does not lead through is shared, for nobody changes it
    found[path[0]] = put(value[path[0]], path[1:], new)
    return found


# Channels that each break a clause; tests/testing/test_channel_contract.py runs every line of BROKEN_CHANNELS.

B = TypeVar("B", bound="type[IntactChannel]")

SECRET = "whsec_" + base64.b64encode(b"a secret of twenty-four!").decode()


class IntactChannel(Webhook):
    """A webhook, with nothing done wrong."""

    def __init__(self) -> None:
        super().__init__("shop", secrets=SECRET, url="https://shop.example/replies")


BROKEN_CHANNELS: dict[str, tuple[type[IntactChannel], dict[str, type[BaseException]]]] = {}
"""Name: the channel, and the methods of `ChannelContract` that must fail on it, each with the exception it fails with."""


def caught_by(*clauses: str, raises: type[BaseException] = AssertionError) -> Callable[[B], B]:
    """Enter a channel into BROKEN_CHANNELS with the *clauses* (without their `test_`) that must catch it."""

    def enter(channel: B) -> B:
        BROKEN_CHANNELS[channel.__name__] = (channel, {f"test_{clause}": raises for clause in clauses})
        return channel

    return enter


@caught_by("it_says_what_it_is")
class TwoNames(IntactChannel):
    """Its name has the colon that ends a name."""

    name = "web:hook"


@caught_by("what_the_platform_signs_is_taken", raises=Refused)
class RefusesAll(IntactChannel):
    """Whoever posts is a forger."""

    def verify(self, method: str, headers: Pairs, query: Pairs, body: bytes, *, at: float) -> Challenge | None:
        raise Refused


@caught_by("every_wrong_signature_is_the_same_refusal", raises=KeyError)
class RaisesWhatComes(IntactChannel):
    """A header that is missing is an error of its own."""

    def verify(self, method: str, headers: Pairs, query: Pairs, body: bytes, *, at: float) -> Challenge | None:
        dict(headers)["webhook-signature"]
        return super().verify(method, headers, query, body, at=at)


@caught_by("a_signature_holds_for_these_bytes_only")
class SignsWhatItRead(IntactChannel):
    """The signature is compared with that of the body without its spaces."""

    def verify(self, method: str, headers: Pairs, query: Pairs, body: bytes, *, at: float) -> Challenge | None:
        return super().verify(method, headers, query, body.strip(), at=at)


@caught_by("other_methods_are_refused")
class AnyMethod(IntactChannel):
    """Whatever is signed is taken for a POST."""

    def verify(self, method: str, headers: Pairs, query: Pairs, body: bytes, *, at: float) -> Challenge | None:
        return super().verify("POST", headers, query, body, at=at)


@caught_by("the_samples_are_read_as_recorded")
class InCapitals(IntactChannel):
    """It changes what was said."""

    def parse(self, body: bytes, headers: Pairs = ()) -> list[Inbound]:
        return [
            msgspec.structs.replace(one, content=str(one.content).upper()) if isinstance(one, Received) else one
            for one in super().parse(body, headers)
        ]


@caught_by("a_redelivery_has_the_same_ids")
class CountsIds(IntactChannel):
    """It gives ids of its own."""

    given = 0

    def parse(self, body: bytes, headers: Pairs = ()) -> list[Inbound]:
        self.given += 1
        return [
            msgspec.structs.replace(one, id=f"{self.given}") if isinstance(one, Received) else one
            for one in super().parse(body, headers)
        ]


@caught_by("what_is_received_can_be_stored")
class OtherAddress(IntactChannel):
    """Its conversations are named by the customer first."""

    def parse(self, body: bytes, headers: Pairs = ()) -> list[Inbound]:
        return [
            msgspec.structs.replace(one, conversation=f"{one.to}:shop:webhook") if isinstance(one, Received) else one
            for one in super().parse(body, headers)
        ]


@caught_by("what_is_received_can_be_stored")
class AnyTime(IntactChannel):
    """What the platform writes for a time is one."""

    def parse(self, body: bytes, headers: Pairs = ()) -> list[Inbound]:
        return [
            msgspec.structs.replace(one, at="yesterday") if isinstance(one, Received) else one
            for one in super().parse(body, headers)
        ]


@caught_by("a_damaged_body_raises_nothing_and_loses_nothing")
class DropsTheUnknown(IntactChannel):
    """What it cannot read it leaves out."""

    def parse(self, body: bytes, headers: Pairs = ()) -> list[Inbound]:
        return [one for one in super().parse(body, headers) if not isinstance(one, Unknown)]


@caught_by("any_bytes_are_kept", raises=json.JSONDecodeError)
class TrustsTheBody(IntactChannel):
    """What is signed is JSON."""

    def parse(self, body: bytes, headers: Pairs = ()) -> list[Inbound]:
        json.loads(body)
        return super().parse(body, headers)


@caught_by("a_reply_is_the_same_requests_each_time")
class AnotherKey(IntactChannel):
    """Its keys are not the reply's."""

    def requests(self, content: Content, *, account: str, to: str, key: str, at: float) -> list[Request]:
        return super().requests(content, account=account, to=to, key="x", at=at)


@caught_by("an_account_without_credentials_sends_nothing")
class AnyAccount(IntactChannel):
    """Whatever account is asked for, its own one sends."""

    def requests(self, content: Content, *, account: str, to: str, key: str, at: float) -> list[Request]:
        return super().requests(content, account="shop", to=to, key=key, at=at)


@caught_by("every_answer_has_an_outcome")
class AlwaysDelivered(IntactChannel):
    """An answer is an answer."""

    def outcome(self, response: Response) -> Outcome:
        return Delivered("")

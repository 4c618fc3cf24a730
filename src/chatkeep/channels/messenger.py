"""Messenger and Instagram: one envelope, two sets of names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from msgspec import Struct, convert

from ..model import Content
from . import meta, parts
from .base import (
    Challenge,
    Inbound,
    Outcome,
    Pairs,
    Received,
    Request,
    Response,
    Status,
    Unknown,
    conversation_of,
    secrets_of,
    shared_with,
)
from .bodies import each, filled, items, name, unknown

TITLE = parts.TextLimit(20)
REPLIES = parts.Tappable(13, TITLE, parts.TextLimit(1000), strict=False)

MEDIA = {
    "image": "image",
    "sticker": "image",
    "animation": "image",
    "video": "video",
    "audio": "audio",
    "voice": "audio",
    "document": "file",
}
KINDS: dict[str, parts.MediaType] = {"image": "image", "video": "video", "audio": "audio", "file": "document"}

OURS = "chatkeep:"
"""Marks what we send, so that its echo is told from what a person writes in the page's inbox."""


class Messenger:
    """
    Facebook pages of one app.

        Messenger(accounts={PAGE_ID: PAGE_TOKEN}, secrets=[APP_SECRET], verify_tokens=["chosen by you"])

    accounts: access tokens by page id. secrets, verify_tokens: as for WhatsApp. app_id: of the app that sends; what other
    apps and people send from the page's inbox is kept under the role "operator".
    """

    name = "messenger"
    idempotent = False
    one_way = False
    rate = 40.0
    _object = "page"
    _room = parts.TextLimit(2000)

    def __init__(
        self,
        *,
        accounts: Mapping[str, str],
        secrets: str | Sequence[str],
        verify_tokens: str | Sequence[str],
        app_id: str = "",
        api: str = f"{meta.GRAPH}/{meta.VERSION}",
    ) -> None:
        kind = type(self).__name__
        self._tokens = meta.accounts_of(kind, accounts)
        self.accounts = frozenset(self._tokens)
        self._secrets = secrets_of(f"{kind}(secrets=...)", secrets)
        self._verify_tokens = shared_with(f"{kind}(verify_tokens=...)", verify_tokens)
        self._app_id = app_id
        self._api = api.rstrip("/")

    def verify(self, method: str, headers: Pairs, query: Pairs, body: bytes, *, at: float) -> Challenge | None:
        """Check the signature over the raw body, or answer the handshake. Raises `Refused`."""
        return meta.verify(method, headers, query, body, secrets=self._secrets, verify_tokens=self._verify_tokens)

    def parse(self, body: bytes, headers: Pairs = ()) -> list[Inbound]:
        """Return the events of all entries, in their order."""

        def whole(read: dict[str, Any]) -> Iterator[Inbound]:
            if read["object"] != self._object:
                raise ValueError(f"this is the webhook of the object {self._object!r}, not {read['object']!r:.60}")
            yield from each(read["entry"], self._entry)

        return items(body, whole)

    def requests(self, content: Content, *, account: str, to: str, key: str, at: float) -> list[Request]:
        """Return one message for each part, and for each 2,000 characters (Instagram: 1,000 bytes) of a text."""
        messages = [message for part in parts.parts_of(content) for message in _messages(part, self._room)]
        keys = [f"{key}/{number}" if len(messages) > 1 else key for number in range(len(messages))]
        return [
            self._post(
                one,
                account,
                {"recipient": {"id": to}, "messaging_type": "RESPONSE", "message": self._marked(message, one)},
            )
            for one, message in zip(keys, messages, strict=True)
        ]

    def may_move(self, to: str) -> bool:
        """Tell that none may: an id for this account stays."""
        return False

    def acknowledge(self, item: Received | Unknown) -> Request | None:
        """Return nothing to send: the platform does not wait."""
        return None

    def notice(self, message: Received) -> Request | None:
        """Show "typing" until the answer comes or 20 s have passed."""
        if message.role != "user":
            return None
        body = {"recipient": {"id": message.to}, "sender_action": "typing_on"}
        return self._post(message.id, message.account, body)

    def outcome(self, response: Response) -> Outcome:
        """Tell what an answer means; `Delivered` here is "accepted": that it has been seen is told by its statuses."""
        return meta.outcome(response, "message_id")

    def _post(self, key: str, account: str, body: dict[str, Any]) -> Request:
        return meta.post(key, f"{self._api}/{account}/messages", self._tokens, account, body)

    def _marked(self, message: dict[str, Any], key: str) -> dict[str, Any]:
        return {**message, "metadata": f"{OURS}{key}"}

    def _entry(self, entry: dict[str, Any]) -> Iterator[Inbound]:
        account = name(entry["id"])
        lists = [member for member in ("messaging", "standby", "changes") if member in entry]
        if not lists:
            raise ValueError("there are no events in this entry")
        for member in lists:
            for event in entry[member] if isinstance(entry[member], list) else [entry[member]]:
                if member == "messaging":
                    yield from each([event], lambda one: self._event(account, one), account=account)
                else:
                    reason = "another app answers this conversation" if member == "standby" else "not a message"
                    yield unknown(event, f"{member}: {reason}", account=account)

    def _event(self, account: str, event: dict[str, Any]) -> Iterator[Inbound]:
        told = convert(event, Envelope)
        customer = name(told.recipient.id if told.sender.id == account else told.sender.id)
        conversation = conversation_of(self.name, account, customer)
        at = told.timestamp / 1000
        try:
            if told.delivery or told.read:
                yield from _statuses(told, account, customer, at)
                return
            message = told.message
            if message is not None and (message.is_echo or told.sender.id == account):
                yield self._echo(message, event, account, customer, conversation, at)
                return
            id, role, content, metadata = _said(told)
            yield Received(
                conversation=conversation,
                account=account,
                to=customer,
                id=name(id),
                role=role,  # type: ignore[arg-type]
                content=content,
                at=at,
                metadata=metadata,
            )
        except (ValueError, LookupError, TypeError) as fault:
            mid = told.message.mid if told.message else ""
            yield unknown(event, str(fault), account=account, conversation=conversation, id=mid)

    def _echo(
        self, message: Message, event: dict[str, Any], account: str, customer: str, conversation: str, at: float
    ) -> Inbound:
        ours = message.metadata.startswith(OURS)
        if ours or (self._app_id and str(message.app_id) == self._app_id):
            key = message.metadata.removeprefix(OURS) if ours else ""
            return Status(account=account, to=customer, status="sent", id=name(message.mid), key=key, at=at)
        if not self._tells_echoes(message):
            reason = "an echo: sent by this bot or by a person; give app_id, so that they can be told apart"
            return unknown(event, reason, account=account, conversation=conversation, id=name(message.mid))
        return Received(
            conversation=conversation,
            account=account,
            to=customer,
            id=name(message.mid),
            role="operator",
            content=_content(message),
            at=at,
            metadata={"sent": True},
        )

    def _tells_echoes(self, message: Message) -> bool:
        return True  # all that this channel sends is marked


class Instagram(Messenger):
    """
    Instagram professional accounts of one app; as `Messenger`, with the account's own id and token.

    Give app_id if people answer from the app too: Instagram repeats no mark of ours on what it echoes.
    """

    name = "instagram"
    _object = "instagram"
    _room = parts.TextLimit(1000, parts.in_bytes)

    def _marked(self, message: dict[str, Any], key: str) -> dict[str, Any]:
        return message

    def _tells_echoes(self, message: Message) -> bool:
        return bool(self._app_id)


# What comes in: the published shapes, as far as they are read.


class Participant(Struct):
    """A customer, by an id that only this account knows them by; or the account."""

    id: str


class QuickReply(Struct):
    """A tapped quick reply."""

    payload: str


class Attachment(Struct):
    """A file, a place, or something shared."""

    type: str
    payload: dict[str, Any] | None = None
    title: str = ""
    url: str = ""


class Message(Struct, kw_only=True):
    """A message, or the echo of one."""

    mid: str
    text: str = ""
    quick_reply: QuickReply | None = None
    attachments: list[Attachment] = []
    reply_to: dict[str, Any] = {}
    referral: dict[str, Any] = {}
    is_echo: bool = False
    is_deleted: bool = False
    is_unsupported: bool = False
    app_id: int | str = ""
    metadata: str = ""


class Postback(Struct):
    """A tapped button, menu entry or "get started"."""

    payload: str = ""
    title: str = ""
    mid: str = ""
    referral: dict[str, Any] = {}


class Reaction(Struct):
    """An emoji on a message, put there or taken back."""

    mid: str
    action: str
    emoji: str = ""
    reaction: str = ""


class Edit(Struct):
    """A message that was changed."""

    mid: str
    text: str
    num_edit: int = 0


class Seen(Struct):
    """Up to where our messages have come, or were read; in milliseconds."""

    watermark: int = 0
    mids: list[str] = []
    mid: str = ""


class Envelope(Struct, kw_only=True):
    """An event: who, when, and one of these."""

    sender: Participant
    recipient: Participant
    timestamp: int
    message: Message | None = None
    postback: Postback | None = None
    reaction: Reaction | None = None
    message_edit: Edit | None = None
    referral: dict[str, Any] | None = None
    delivery: Seen | None = None
    read: Seen | None = None


def _statuses(told: Envelope, account: str, customer: str, at: float) -> Iterator[Status]:
    seen = told.delivery or told.read or Seen()
    until = seen.watermark / 1000 if seen.watermark else None
    for mid in seen.mids or [seen.mid]:
        if not mid and until is None:
            raise ValueError("it says neither which message nor up to when")
        yield Status(
            account=account,
            to=customer,
            status="delivered" if told.delivery else "read",
            id=mid,
            at=at,
            until=None if mid else until,
        )


def _said(told: Envelope) -> tuple[str, str, Content, dict[str, Any]]:
    """Return id, role, content and metadata of what a customer did. Raises ValueError when it is none of the published events."""
    if message := told.message:
        story = message.reply_to.get("story")
        metadata = filled(reply_to=message.reply_to.get("mid"), story=story, referral=message.referral)
        if message.is_deleted:
            return f"{message.mid}:deleted", "event", [{"type": "deleted", "message": message.mid}], metadata
        return message.mid, "user", _content(message), metadata
    if postback := told.postback:
        pressed = parts.plain(parts.Pressed(postback.payload or postback.title, postback.title))
        return postback.mid or f"postback:{told.timestamp}", "user", [pressed], filled(referral=postback.referral)
    if reaction := told.reaction:
        emoji = "" if reaction.action == "unreact" else reaction.emoji or reaction.reaction
        part = {"type": "reaction", "message": reaction.mid, "emoji": emoji}
        return f"{reaction.mid}:{reaction.action}:{told.timestamp}", "event", [part], {}
    if edit := told.message_edit:
        said = [{"type": "edited", "message": edit.mid}, parts.plain(parts.Text(edit.text))]
        return f"{edit.mid}:edited:{edit.num_edit or told.timestamp}", "event", said, {}
    if told.referral:
        return f"referral:{told.timestamp}", "event", [{"type": "referral", "referral": told.referral}], {}
    raise ValueError("events of this kind are not known")


def _content(message: Message) -> Content:
    if message.is_unsupported:
        return [{"type": "unsupported", "reason": "the platform does not pass it on"}]
    if message.quick_reply:
        return [parts.plain(parts.Pressed(message.quick_reply.payload, message.text))]
    if not message.attachments and not message.text:
        raise ValueError("this message has neither text nor attachments")
    if not message.attachments:
        return message.text
    said = [parts.plain(parts.Text(message.text))] if message.text else []
    return [*said, *map(_attachment, message.attachments)]


def _attachment(attachment: Attachment) -> dict[str, Any]:
    payload = attachment.payload or {}
    url = payload.get("url") or attachment.url
    if kind := KINDS.get(attachment.type):
        kind = "sticker" if payload.get("sticker_id") else kind
        return parts.plain(parts.Media(type=kind, url=_text(url), name=_text(payload.get("title") or attachment.title)))
    if attachment.type == "location":
        place = payload["coordinates"]
        return parts.plain(
            parts.Location(latitude=float(place["lat"]), longitude=float(place["long"]), name=attachment.title)
        )
    shared = filled(url=url, name=payload.get("title") or attachment.title, **({} if url else {"payload": payload}))
    return {"type": attachment.type, **shared}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


# What goes out.


def _messages(part: parts.Part, room: parts.TextLimit) -> list[dict[str, Any]]:
    match part:
        case parts.Text():
            return [{"text": piece} for piece in room.pieces(part.text)]
        case parts.Media():
            where = {"attachment_id": part.media} if part.media else {"url": part.url}
            file = {"attachment": {"type": MEDIA[part.type], "payload": where}}
            return [file, *_messages(parts.Text(part.text), room)]
        case parts.Location():
            return _messages(parts.Text(parts.where(part)), room)
        case parts.Template():
            payload = part.components[0] if part.components else None
            return (
                [{"attachment": {"type": "template", "payload": payload}}]
                if payload
                else _messages(part.fallback, room)
            )
        case parts.Buttons() | parts.Choices():
            rows = part.rows
            if not REPLIES.takes(rows):
                return _messages(parts.Text(parts.numbered(part.text, rows)), room)
            *before, last = list(room.pieces(part.text)) or ["…"]
            replies = [{"content_type": "text", "title": TITLE.short(row.text), "payload": row.id} for row in rows]
            return [*({"text": piece} for piece in before), {"text": last, "quick_replies": replies}]

"""Telegram bots."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
from msgspec import Struct, convert, field, structs

from ..errors import Misconfigured
from ..model import Content
from . import parts
from .base import (
    Challenge,
    Delivered,
    Failed,
    Inbound,
    Outcome,
    Pairs,
    Received,
    Refused,
    Request,
    Response,
    Retry,
    Uncertain,
    Unknown,
    conversation_of,
    header,
    same,
    secrets_of,
)
from .bodies import filled, items, name, unknown

TEXT, CAPTION, DATA = parts.TextLimit(4096), parts.TextLimit(1024), parts.TextLimit(64, parts.in_bytes)

SEND: dict[str, tuple[str, str]] = {
    "image": ("sendPhoto", "photo"),
    "video": ("sendVideo", "video"),
    "audio": ("sendAudio", "audio"),
    "voice": ("sendVoice", "voice"),
    "document": ("sendDocument", "document"),
    "sticker": ("sendSticker", "sticker"),
    "animation": ("sendAnimation", "animation"),
}
"""Method and argument by kind of media."""

GONE = re.compile(
    "chat not found|user not found|peer_id_invalid|user is deactivated|chat was deactivated|upgraded to a supergroup"
    "|have no rights|not enough rights|need administrator rights|topic_closed|message thread not found",
    re.IGNORECASE,
)
"""What 400 says when it is the chat, and not the message, that will not do; there are no codes for it."""


class Telegram:
    """
    One Telegram bot.

        Telegram(token=BOT_TOKEN, secrets=[TELEGRAM_SECRET])

    token: from @BotFather, such as 123456:AAF... secrets: what setWebhook was given as secret_token, and while it is being changed also
    the old one. The conversation is the chat: a person's, a group's, or one topic of a group.
    """

    name = "telegram"
    idempotent = False
    one_way = False
    rate = 25.0  # of 30 messages a second for a bot

    def __init__(self, *, token: str, secrets: str | Sequence[str], api: str = "https://api.telegram.org") -> None:
        if not re.fullmatch("[0-9]{1,20}:[A-Za-z0-9_-]{1,128}", token):
            raise Misconfigured("Telegram(token=...) is not of the form 123456:AAF...; nothing was opened.")
        self._secrets = secrets_of("Telegram(secrets=...)", secrets)
        if not all(re.fullmatch("[A-Za-z0-9_-]{1,256}", secret) for secret in self._secrets):
            raise Misconfigured(
                "Telegram(secrets=...): Telegram takes only A-Z, a-z, 0-9, _ and -; nothing was opened."
            )
        self.account = token.partition(":")[0]
        self.accounts = frozenset([self.account])
        self._url = f"{api.rstrip('/')}/bot{token}/"

    def verify(self, method: str, headers: Pairs, query: Pairs, body: bytes, *, at: float) -> Challenge | None:
        """Compare the secret token; it signs nothing, so it must only ever travel over TLS. Raises `Refused`."""
        if method != "POST" or not same(self._secrets, header(headers, "x-telegram-bot-api-secret-token")):
            raise Refused
        return None

    def parse(self, body: bytes, headers: Pairs = ()) -> list[Inbound]:
        """Return the one update in the body."""
        return items(body, self._update)

    def requests(self, content: Content, *, account: str, to: str, key: str, at: float) -> list[Request]:
        """Return one message for each part, and for each 4,096 characters of a text."""
        if account != self.account:
            raise Misconfigured(f"This is the bot {self.account}, not {account!r}. Nothing was sent.")
        calls = [call for part in parts.parts_of(content) for call in _calls(part)]
        chat, _, topic = to.partition("/")
        address: dict[str, Any] = {"chat_id": chat, **({"message_thread_id": int(topic)} if topic else {})}
        return [
            self._call(f"{key}/{number}" if len(calls) > 1 else key, method, address | body)
            for number, (method, body) in enumerate(calls)
        ]

    def may_move(self, to: str) -> bool:
        """Tell whether it is a group: groups become supergroups, with another id."""
        return to.startswith("-") and "/" not in to

    def acknowledge(self, item: Received | Unknown) -> Request | None:
        """Stop the clock on a tapped button, also on one whose tap is not understood."""
        callback = item.metadata.get("callback") if isinstance(item, Received) else _tap_of(item.raw)
        return self._call(item.id, "answerCallbackQuery", {"callback_query_id": callback}) if callback else None

    def notice(self, message: Received) -> Request | None:
        """Show "typing" for 5 s."""
        if message.role != "user":
            return None
        chat, _, topic = message.to.partition("/")
        place = {"chat_id": chat, **({"message_thread_id": int(topic)} if topic else {})}
        return self._call(message.id, "sendChatAction", {**place, "action": "typing"})

    def outcome(self, response: Response) -> Outcome:
        """Tell by the status and, where Telegram has no codes, by its words."""
        try:
            told = msgspec.json.decode(response.body, type=Answer)
        except (msgspec.DecodeError, UnicodeDecodeError):
            told = Answer(ok=False)
        if told.ok:
            return Delivered(str(told.result.message_id)) if isinstance(told.result, Sent) else Delivered("")
        code = told.error_code or response.status
        moved = f" (the chat is now {told.parameters.migrate_to_chat_id})" if told.parameters.migrate_to_chat_id else ""
        reason = f"{code}: {told.description or 'no reason given'}{moved}"
        if code == 429:
            return Retry(reason, told.parameters.retry_after)
        if code in (401, 404):
            return Failed(reason, "account")
        if code == 403 or (code == 400 and (moved or GONE.search(told.description))):
            return Failed(reason, "recipient", str(told.parameters.migrate_to_chat_id or ""))
        return Failed(reason, "content") if 400 <= code < 500 and code != 408 else Uncertain(reason)

    def _call(self, key: str, method: str, body: dict[str, Any]) -> Request:
        headers = {"content-type": "application/json"}
        return Request(key=key, url=self._url + method, headers=headers, body=msgspec.json.encode(body))

    def _update(self, item: dict[str, Any]) -> Iterator[Inbound]:
        id = name(item["update_id"])
        try:
            yield self._received(id, item)
        except (ValueError, LookupError, TypeError) as fault:
            odd = unknown(item, str(fault), account=self.account, conversation=self._whereabouts(item), id=id)
            yield self._moved(odd)

    def _received(self, id: str, item: dict[str, Any]) -> Received:
        update = convert(item, Update)
        message, role = (update.edited_message, "event") if update.edited_message else (update.message, "user")
        who = message.sender if message else User()
        content: Content
        metadata: dict[str, Any] = {}
        if callback := update.callback_query:
            message, who = callback.message, callback.sender
            content = [parts.plain(parts.Pressed(callback.data, _label(message, callback.data)))]
            metadata = {"callback": callback.id}
        elif message:
            content = _content(message)
        if message is None:
            raise ValueError("updates of this kind are not known")
        if update.edited_message:
            said = content if isinstance(content, list) else [parts.plain(parts.Text(content))]
            content = [{"type": "edited", "message": str(message.message_id)}, *said]
        return Received(
            conversation=conversation_of("telegram", self.account, message.place),
            account=self.account,
            to=message.place,
            id=id,
            names=(conversation_of("telegram", self.account, message.place),) if self.may_move(message.place) else (),
            role=role,  # type: ignore[arg-type]
            content=content,
            at=float(message.edit_date or message.date) if not update.callback_query else None,
            metadata=filled(
                name=" ".join(filter(None, (who.first_name, who.last_name))),
                username=who.username,
                language=who.language_code,
                user_id=str(who.id) if who.id else "",
                chat=message.chat.type if message.chat.type != "private" else "",
                message=str(message.message_id),
                reply_to=str(message.reply_to_message["message_id"]) if message.reply_to_message else "",
                album=message.media_group_id,
                **metadata,
            ),
        )

    def _moved(self, odd: Unknown) -> Unknown:
        """Return the same, with the names of the group where it tells that a group is a supergroup now."""
        message = odd.raw.get("message")
        if not isinstance(message, dict) or not odd.conversation:
            return odd
        here = odd.conversation.rpartition(":")[2]
        for member in ("migrate_to_chat_id", "migrate_from_chat_id"):
            if isinstance(other := message.get(member), int):
                old, new = (here, str(other)) if member == "migrate_to_chat_id" else (str(other), here)
                names = {"names": (new,), "former": (old,)}
                named = {
                    kind: tuple(conversation_of("telegram", self.account, one) for one in ids)
                    for kind, ids in names.items()
                }
                return structs.replace(odd, reason="the group is a supergroup now", to=new, **named)
        return odd

    def _whereabouts(self, item: dict[str, Any]) -> str:
        """Return the conversation of an update that is not understood, if it has a chat."""
        for value in item.values():
            chat = value.get("chat") if isinstance(value, dict) else None
            if isinstance(chat, dict) and isinstance(chat.get("id"), int):
                return conversation_of("telegram", self.account, str(chat["id"]))
        return ""


# What comes in: the published shapes, as far as they are read.


class User(Struct):
    """Who wrote."""

    id: int = 0
    first_name: str = ""
    last_name: str = ""
    username: str = ""
    language_code: str = ""


class Chat(Struct):
    """Where."""

    id: int
    type: str = "private"


class File(Struct):
    """A file; *file_id* is good for fetching and for sending it on."""

    file_id: str
    file_unique_id: str = ""
    file_name: str = ""
    mime_type: str = ""
    file_size: int = 0


class Location(Struct):
    """A location."""

    latitude: float
    longitude: float


class Venue(Struct):
    """A location with a name."""

    location: Location
    title: str = ""
    address: str = ""


class Contact(Struct):
    """A contact that was shared."""

    phone_number: str
    first_name: str = ""
    last_name: str = ""
    user_id: int = 0


class Message(Struct, kw_only=True):
    """A message, or where a tapped button is."""

    message_id: int
    chat: Chat
    date: int = 0
    edit_date: int = 0
    sender: User = field(name="from", default_factory=User)
    message_thread_id: int = 0
    is_topic_message: bool = False
    media_group_id: str = ""
    reply_to_message: dict[str, Any] = {}
    reply_markup: dict[str, Any] = {}
    text: str = ""
    caption: str = ""
    photo: list[File] = []
    animation: File | None = None  # comes with `document` beside it, for older bots
    video: File | None = None
    video_note: File | None = None
    audio: File | None = None
    voice: File | None = None
    sticker: File | None = None
    document: File | None = None
    venue: Venue | None = None  # comes with `location` beside it
    location: Location | None = None
    contact: Contact | None = None

    @property
    def place(self) -> str:
        """The chat, and its topic if it has topics."""
        return f"{self.chat.id}/{self.message_thread_id}" if self.is_topic_message else str(self.chat.id)


class Callback(Struct, kw_only=True):
    """A tapped button."""

    id: str
    sender: User = field(name="from")
    data: str
    message: Message


class Update(Struct, kw_only=True):
    """One of these."""

    message: Message | None = None
    edited_message: Message | None = None
    callback_query: Callback | None = None


class Sent(Struct):
    """A message that was sent."""

    message_id: int


class Parameters(Struct, frozen=True):
    """What would help."""

    retry_after: float | None = None
    migrate_to_chat_id: int | None = None


class Answer(Struct):
    """The answer to every call."""

    ok: bool
    result: Sent | bool | None = None
    error_code: int = 0
    description: str = ""
    parameters: Parameters = Parameters()


FILES: dict[str, parts.MediaType] = {
    "animation": "animation",
    "video": "video",
    "video_note": "video",
    "audio": "audio",
    "voice": "voice",
    "sticker": "sticker",
    "document": "document",
}


def _content(message: Message) -> Content:
    """Return what a message says. Raises ValueError when it says nothing that is known."""
    if message.text:
        return message.text
    if message.photo:
        return [_media("image", message.photo[-1], message.caption)]  # the last one is the largest
    for member, kind in FILES.items():
        if file := getattr(message, member):
            return [_media(kind, file, message.caption)]
    if venue := message.venue:
        where = parts.Location(
            latitude=venue.location.latitude,
            longitude=venue.location.longitude,
            name=venue.title,
            address=venue.address,
        )
        return [parts.plain(where)]
    if place := message.location:
        return [parts.plain(parts.Location(latitude=place.latitude, longitude=place.longitude))]
    if contact := message.contact:
        full = " ".join(filter(None, (contact.first_name, contact.last_name)))
        user = str(contact.user_id) if contact.user_id else ""
        return [{"type": "contact", **filled(name=full, phones=[contact.phone_number], user_id=user)}]
    raise ValueError("messages of this kind are not known")


def _media(kind: parts.MediaType, file: File, caption: str) -> dict[str, Any]:
    return parts.plain(
        parts.Media(
            type=kind,
            media=name(file.file_id),
            text=caption,
            name=file.file_name,
            mime=file.mime_type,
            size=file.file_size,
        )
    )


def _tap_of(update: Any) -> str:
    """Return the id of the tap in an update that is not understood; "" when it is none."""
    try:
        return name(update["callback_query"]["id"])
    except (LookupError, TypeError, ValueError):
        return ""


def _label(message: Message, data: str) -> str:
    """Return the text of the tapped button, as long as its message is not too old to be shown."""
    for row in message.reply_markup.get("inline_keyboard", []):
        for button in row:
            if button.get("callback_data") == data and isinstance(button.get("text"), str):
                return str(button["text"])
    return ""


# What goes out.


def _calls(part: parts.Part) -> list[tuple[str, dict[str, Any]]]:
    match part:
        case parts.Text():
            return [("sendMessage", {"text": piece}) for piece in TEXT.pieces(part.text)]
        case parts.Media():
            method, argument = SEND[part.type]
            captioned = part.type != "sticker" and CAPTION.holds(part.text)
            body = {argument: part.media or part.url, **filled(caption=part.text if captioned else "")}
            return [(method, body), *([] if captioned else _calls(parts.Text(part.text)))]
        case parts.Location():
            place = {"latitude": part.latitude, "longitude": part.longitude}
            if part.name and part.address:
                return [("sendVenue", {**place, "title": part.name, "address": part.address})]
            return [("sendLocation", place), *_calls(parts.Text(part.name or part.address))]
        case parts.Template():
            return _calls(part.fallback)
        case parts.Buttons() | parts.Choices():
            if not part.rows or not all(row.text.strip() for row in part.rows):
                return _calls(parts.Text(parts.numbered(part.text, part.rows)))
            *before, last = list(TEXT.pieces(part.text)) or ["…"]
            texts = [("sendMessage", {"text": piece}) for piece in before]
            return [*texts, ("sendMessage", {"text": last, "reply_markup": _keyboard(part.rows)})]


def _keyboard(rows: list[parts.Choice]) -> dict[str, Any]:
    """Return buttons that send their id; or, where Telegram does not take an id, that send their text."""
    if all(row.id and DATA.holds(row.id) for row in rows):
        return {"inline_keyboard": [[{"text": row.text, "callback_data": row.id}] for row in rows]}
    return {"keyboard": [[{"text": row.text}] for row in rows], "one_time_keyboard": True, "resize_keyboard": True}

"""WhatsApp, through the Cloud API."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from msgspec import Struct, convert, field, structs

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
from .bodies import each, filled, items, name, storable, unknown

TEXT, BODY, CAPTION = parts.TextLimit(4096), parts.TextLimit(1024), parts.TextLimit(1024)
BUTTON, ROW, DESCRIPTION = parts.TextLimit(20), parts.TextLimit(24), parts.TextLimit(72)
BUTTONS = parts.Tappable(3, BUTTON, parts.TextLimit(256), strict=True)
ROWS = parts.Tappable(10, ROW, parts.TextLimit(200), strict=True)

MEDIA: dict[str, str] = {"voice": "audio", "animation": "video"}
"""How WhatsApp calls our kinds of media, where the names differ."""

EVENTS = ("reaction", "system", "edit", "revoke")
"""The types of what a customer does, and does not say."""

STATUSES = {"sent": "sent", "delivered": "delivered", "read": "read", "played": "read", "failed": "failed"}


class WhatsApp:
    """
    WhatsApp business numbers of one app.

        WhatsApp(accounts={"106540352242922": ACCESS_TOKEN}, secrets=[APP_SECRET], verify_tokens=["chosen by you"])

    accounts: access tokens by phone number id. secrets: the app secret, and while it is being changed also the old one.
    verify_tokens: what was entered where the webhook was set up.
    """

    name = "whatsapp"
    idempotent = False
    one_way = False
    rate = 40.0  # of 80 messages a second for a number

    def __init__(
        self,
        *,
        accounts: Mapping[str, str],
        secrets: str | Sequence[str],
        verify_tokens: str | Sequence[str],
        api: str = f"{meta.GRAPH}/{meta.VERSION}",
    ) -> None:
        self._tokens = meta.accounts_of("WhatsApp", accounts)
        self.accounts = frozenset(self._tokens)
        self._secrets = secrets_of("WhatsApp(secrets=...)", secrets)
        self._verify_tokens = shared_with("WhatsApp(verify_tokens=...)", verify_tokens)
        self._api = api.rstrip("/")

    def verify(self, method: str, headers: Pairs, query: Pairs, body: bytes, *, at: float) -> Challenge | None:
        """Check the signature over the raw body, or answer the handshake. Raises `Refused`."""
        return meta.verify(method, headers, query, body, secrets=self._secrets, verify_tokens=self._verify_tokens)

    def parse(self, body: bytes, headers: Pairs = ()) -> list[Inbound]:
        """Return the messages and statuses of all entries and changes, in their order."""
        return items(body, lambda whole: each(whole["entry"], lambda entry: each(entry["changes"], _change)))

    def requests(self, content: Content, *, account: str, to: str, key: str, at: float) -> list[Request]:
        """Return one message for each part, and for each 4,096 characters of a text."""
        bodies = [body for part in parts.parts_of(content) for body in _bodies(part)]
        return [
            self._post(f"{key}/{number}" if len(bodies) > 1 else key, account, to, body)
            for number, body in enumerate(bodies)
        ]

    def may_move(self, to: str) -> bool:
        """Tell that any may: numbers change, and are hidden or shown."""
        return True

    def acknowledge(self, item: Received | Unknown) -> Request | None:
        """Return nothing to send: the platform does not wait."""
        return None

    def notice(self, message: Received) -> Request | None:
        """Show two blue ticks, and "typing" until the answer comes or 25 s have passed."""
        if message.role != "user":
            return None
        body = {"status": "read", "message_id": message.id, "typing_indicator": {"type": "text"}}
        return meta.post(message.id, self._url(message.account), self._tokens, message.account, _whatsapp(body))

    def outcome(self, response: Response) -> Outcome:
        """Tell what an answer means; `Delivered` here is "accepted": that it has reached the customer is told by statuses."""
        return meta.outcome(response, "messages", 0, "id")

    def _url(self, account: str) -> str:
        return f"{self._api}/{account}/messages"

    def _post(self, key: str, account: str, to: str, body: dict[str, Any]) -> Request:
        # A phone number is preferred by the platform; ids such as US.1349... are for who does not show theirs.
        address = {"to": to} if to.removeprefix("+").isdecimal() else {"recipient": to}
        told = {"recipient_type": "individual", **address, **body, "biz_opaque_callback_data": key}
        return meta.post(key, self._url(account), self._tokens, account, _whatsapp(told))


def _whatsapp(body: dict[str, Any]) -> dict[str, Any]:
    return {"messaging_product": "whatsapp", **body}


# What comes in: the published shapes, as far as they are read.


class Profile(Struct, frozen=True):
    """How the customer shows themselves."""

    name: str = ""
    username: str = ""


class Contact(Struct):
    """Who wrote. user_id is theirs for this business; wa_id, the phone number, may be hidden."""

    wa_id: str = ""
    user_id: str = ""
    profile: Profile = Profile()


class Envelope(Struct, kw_only=True):
    """What all messages have."""

    id: str
    type: str
    timestamp: str
    sender: str = field(name="from", default="")
    sender_id: str = field(name="from_user_id", default="")
    to: str = ""
    to_id: str = field(name="to_user_id", default="")
    group_id: str = ""
    context: dict[str, Any] = {}
    referral: dict[str, Any] = {}
    errors: list[dict[str, Any]] = []


class TextBody(Struct):
    """A text."""

    body: str


class File(Struct):
    """A file of theirs; *id* is good for fetching it."""

    id: str
    mime_type: str = ""
    sha256: str = ""
    caption: str = ""
    filename: str = ""
    url: str = ""
    voice: bool = False
    animated: bool = False


class Selection(Struct):
    """A row or a button of an interactive message."""

    id: str
    title: str = ""
    description: str = ""


class Form(Struct):
    """What was filled in in a flow; the answers are JSON within the JSON."""

    response_json: str
    body: str = ""
    name: str = ""


class Interactive(Struct):
    """The answer to an interactive message."""

    type: str
    button_reply: Selection | None = None
    list_reply: Selection | None = None
    nfm_reply: Form | None = None


class Button(Struct):
    """A quick reply button of a template."""

    text: str
    payload: str = ""


class Location(Struct):
    """A location."""

    latitude: float
    longitude: float
    name: str = ""
    address: str = ""


class Phone(Struct):
    """A number in a contact card."""

    phone: str = ""
    wa_id: str = ""


class Name(Struct, frozen=True):
    """A name in a contact card."""

    formatted_name: str = ""


class Card(Struct):
    """A contact that was shared."""

    name: Name = Name()
    phones: list[Phone] = []


class Item(Struct):
    """A line of an order."""

    product_retailer_id: str
    quantity: int
    item_price: float
    currency: str


class Order(Struct):
    """A cart that was sent from the catalogue."""

    product_items: list[Item]
    catalog_id: str = ""
    text: str = ""


class Reaction(Struct):
    """An emoji on a message; none: it was taken back."""

    message_id: str
    emoji: str = ""


class Edit(Struct):
    """A message that was changed, with what it says now."""

    original_message_id: str
    message: dict[str, Any]


class Revoke(Struct):
    """A message that was taken back."""

    original_message_id: str


class System(Struct):
    """A change of the customer's number or identity."""

    type: str
    body: str = ""
    customer: str = ""
    wa_id: str = ""
    user_id: str = ""


class Sent(Struct, kw_only=True):
    """A status."""

    id: str
    status: str
    timestamp: str
    recipient_id: str = ""
    recipient_user_id: str = ""
    key: str = field(name="biz_opaque_callback_data", default="")
    errors: list[dict[str, Any]] = []
    conversation: dict[str, Any] = {}
    pricing: dict[str, Any] = {}


FILES = ("image", "video", "audio", "document", "sticker")


def _change(change: dict[str, Any]) -> Iterator[Inbound]:
    """Return what is in one change: messages, statuses, errors of the account, or something else that is shown as it is."""
    kind, value = change["field"], change["value"]
    lists = {"messages": ("messages", "statuses", "errors"), "smb_message_echoes": ("message_echoes",)}.get(kind, ())
    if not any(member in value for member in lists):
        yield unknown(change, f"{kind}: not a message")
        return
    account = name(value["metadata"]["phone_number_id"])
    contacts = [one for one in map(_contact, value.get("contacts") or ()) if one]
    readers: dict[str, Callable[[dict[str, Any]], Iterator[Inbound]]] = {
        "messages": partial(_message, account, contacts),
        "message_echoes": partial(_message, account, [], echo=True),
        "statuses": partial(_status, account),
        "errors": lambda error: iter([unknown(error, meta.reason_of(error), account=account)]),
    }
    for member in lists:
        if member in value:
            yield from each(value[member], readers[member], account=account)


def _contact(raw: Any) -> Contact | None:
    try:
        return convert(raw, Contact)
    except ValueError:
        return None  # the message is more than the name of who sent it


def _message(account: str, contacts: list[Contact], item: dict[str, Any], *, echo: bool = False) -> Iterator[Inbound]:
    told = convert(item, Envelope)
    phone, user_id = (told.to, told.to_id) if echo else (told.sender, told.sender_id)
    mine = [one for one in contacts if (phone and one.wa_id == phone) or (user_id and one.user_id == user_id)]
    # Without any id of the sender, the only contact of the only message is who it is.
    who = mine[0] if mine else contacts[0] if len(contacts) == 1 and not phone and not user_id else Contact()
    phone, user_id = phone or who.wa_id, user_id or who.user_id
    names = tuple(conversation_of("whatsapp", account, name(one)) for one in (user_id, phone) if one)
    conversation = conversation_of("whatsapp", account, name(user_id or phone))
    id = name(told.id)
    if told.group_id:
        yield unknown(item, "groups are not answered", account=account, id=id)
        return
    try:
        content = _content(told, item.get(told.type))
    except (ValueError, LookupError, TypeError) as fault:
        yield unknown(item, f"{told.type}: {fault}", account=account, conversation=conversation, id=id)
        return
    to, former = name(phone or user_id), tuple[str, ...]()
    if told.type == "system" and (changed := _changed(item["system"], user_id)):
        to = changed[-1]
        former, names = names, tuple(conversation_of("whatsapp", account, one) for one in changed)
    yield Received(
        conversation=conversation,
        account=account,
        to=to,
        names=names,
        former=tuple(one for one in former if one not in names),
        id=id,
        content=content,
        role="operator" if echo else "event" if told.type in EVENTS else "user",
        at=float(int(told.timestamp)),
        metadata=filled(
            name=who.profile.name,
            username=who.profile.username,
            phone=phone,
            user_id=user_id,
            reply_to=told.context.get("id"),
            forwarded=bool(told.context.get("forwarded") or told.context.get("frequently_forwarded")) or None,
            product=told.context.get("referred_product"),
            referral=told.referral,
            sent=echo or None,
        ),
    )


def _changed(raw: Any, user_id: str) -> tuple[str, ...]:
    """Return the customer's names after a change of their number; none when it is another event."""
    change = convert(raw, System)
    if change.type not in ("user_changed_number", "customer_changed_number", "user_changed_user_id"):
        return ()
    return tuple(name(one) for one in (change.user_id or user_id, change.wa_id) if one)


def _content(told: Envelope, raw: Any) -> Content:
    """Return what a message says. Raises ValueError, LookupError or TypeError when it is not of the published shape."""
    match told.type:
        case "text":
            return convert(raw, TextBody).body
        case kind if kind in FILES:
            file = convert(raw, File)
            media = parts.Media(
                type="voice" if file.voice else kind,  # type: ignore[arg-type]
                media=name(file.id),
                url=file.url,
                text=file.caption,
                name=file.filename,
                mime=file.mime_type,
                sha256=file.sha256,
            )
            return [parts.plain(media)]
        case "interactive":
            return [_answer(convert(raw, Interactive))]
        case "button":
            button = convert(raw, Button)
            return [parts.plain(parts.Pressed(button.payload or button.text, button.text))]
        case "location":
            place = convert(raw, Location)
            return [parts.plain(parts.Location(**{part: getattr(place, part) for part in Location.__struct_fields__}))]
        case "contacts":
            return _contacts(raw)
        case "order":
            return [_order(raw)]
        case "reaction":
            reaction = convert(raw, Reaction)
            return [{"type": "reaction", "message": reaction.message_id, "emoji": reaction.emoji}]
        case "system":
            system = convert(raw, System)
            return [
                {
                    "type": "system",
                    "event": system.type,
                    **filled(text=system.body, phone=system.wa_id, user_id=system.user_id, customer=system.customer),
                }
            ]
        case "edit":
            return _edited(told, convert(raw, Edit))
        case "revoke":
            return [{"type": "deleted", "message": name(convert(raw, Revoke).original_message_id)}]
        case "unsupported":
            reason = "; ".join(meta.reason_of(error) for error in told.errors)
            return [{"type": "unsupported", "reason": reason or "the platform does not pass it on"}]
        case _:
            raise ValueError("not a published type")


def _contacts(raw: Any) -> Content:
    cards = convert(raw, list[Card])
    return [
        {
            "type": "contact",
            **filled(name=card.name.formatted_name, phones=[one.phone or one.wa_id for one in card.phones]),
            "card": whole,
        }
        for card, whole in zip(cards, raw, strict=True)
    ]


def _order(raw: Any) -> dict[str, Any]:
    order = convert(raw, Order, strict=False)
    lines = [
        {
            "id": one.product_retailer_id,
            "quantity": one.quantity,
            "price": one.item_price,
            "currency": one.currency,
        }
        for one in order.product_items
    ]
    return {"type": "order", "items": lines, **filled(catalog=order.catalog_id, text=order.text)}


def _edited(told: Envelope, edit: Edit) -> Content:
    kind = edit.message.get("type", "")
    if kind in EVENTS:
        raise ValueError(f"an edit to what is of type {kind!r} is not known")
    said = _content(structs.replace(told, type=kind), edit.message.get(kind))
    parts_now = [parts.plain(parts.Text(said))] if isinstance(said, str) else said
    return [{"type": "edited", "message": name(edit.original_message_id)}, *parts_now]


def _answer(answer: Interactive) -> dict[str, Any]:
    if tapped := answer.button_reply or answer.list_reply:
        return parts.plain(parts.Pressed(tapped.id, tapped.title))
    if form := answer.nfm_reply:
        return {
            "type": "form",
            **filled(text=form.body, name=form.name),
            "answers": storable(json.loads(form.response_json)),
        }
    raise ValueError(f"interactive answers of type {answer.type!r} are not known")


def _status(account: str, item: dict[str, Any]) -> Iterator[Inbound]:
    told = convert(item, Sent)
    if told.status not in STATUSES:
        yield unknown(item, f"the status {told.status!r} is not known", account=account)
        return
    error = None
    if told.status == "failed":
        cause = told.errors[0] if told.errors else {}
        error = meta.judged(cause) or meta.undelivered(cause)
    yield Status(
        account=account,
        to=told.recipient_id or told.recipient_user_id,
        status=STATUSES[told.status],  # type: ignore[arg-type]
        id=name(told.id),
        key=told.key,
        at=float(int(told.timestamp)),
        error=error,
        metadata=filled(conversation=told.conversation, pricing=told.pricing),
    )


# What goes out.


def _bodies(part: parts.Part) -> list[dict[str, Any]]:
    match part:
        case parts.Text():
            return [{"type": "text", "text": {"body": piece}} for piece in TEXT.pieces(part.text)]
        case parts.Media():
            return _media(part)
        case parts.Location():
            place = filled(latitude=part.latitude, longitude=part.longitude, name=part.name, address=part.address)
            return [{"type": "location", "location": place}]
        case parts.Template():
            given = [{"type": "text", "text": text} for text in part.parameters]
            components = part.components or ([{"type": "body", "parameters": given}] if given else [])
            template = {"name": part.name, "language": {"code": part.language}, **filled(components=components)}
            return [{"type": "template", "template": template}]
        case parts.Buttons():
            if not BUTTONS.takes(part.buttons):
                return _bodies(parts.Choices(part.text, [parts.Section(part.buttons)]))
            buttons = [
                {"type": "reply", "reply": {"id": one.id, "title": BUTTON.short(one.text)}} for one in part.buttons
            ]
            return _interactive("button", part.text, {"buttons": buttons})
        case parts.Choices():
            if not ROWS.takes(part.rows):
                return _bodies(parts.Text(parts.numbered(part.text, part.rows)))
            label = BUTTON.short(part.button.strip() or parts.LABEL)
            sections = [section for section in part.sections if section.rows]
            untitled = label if len(sections) > 1 else ""  # of several, each needs a title
            shown = [
                {
                    **filled(title=ROW.short(section.title.strip() or untitled)),
                    "rows": [
                        {
                            "id": row.id,
                            "title": ROW.short(row.text),
                            **filled(description=DESCRIPTION.short(row.description)),
                        }
                        for row in section.rows
                    ],
                }
                for section in sections
            ]
            return _interactive("list", part.text, {"button": label, "sections": shown})


def _interactive(kind: str, text: str, action: dict[str, Any]) -> list[dict[str, Any]]:
    """Return a text to tap on; what does not fit into its body goes before it."""
    *before, last = list(BODY.pieces(text)) or ["…"]
    body = {"type": kind, "body": {"text": last}, "action": action}
    return [
        *({"type": "text", "text": {"body": piece}} for piece in before),
        {"type": "interactive", "interactive": body},
    ]


def _media(part: parts.Media) -> list[dict[str, Any]]:
    kind = MEDIA.get(part.type, part.type)
    captioned = kind not in ("audio", "sticker") and CAPTION.holds(part.text)
    file = filled(
        **({"id": part.media} if part.media else {"link": part.url}),
        caption=part.text if captioned else "",
        filename=part.name if kind == "document" else "",
    )
    below = [] if captioned else _bodies(parts.Text(part.text))
    return [{"type": kind, kind: file}, *below]

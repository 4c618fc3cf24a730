"""/openapi.json: made of the routes, their docstrings and policies, and of the same types that are parsed and answered."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Iterator
from functools import cache
from typing import Any
from urllib.parse import quote

import msgspec
from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from .. import __version__
from ..conversation.edits import StateAsOf
from ..people.erasing import ErasedUser
from . import (
    answers,
    audit,
    bulk,
    canned,
    desk,
    devices,
    events,
    exporting,
    holds,
    operators,
    people,
    presence,
    running,
    saving,
    signing_in,
    story,
    switches,
    tokens,
    views,
    wire,
)
from .access import allows
from .cookies import COOKIE
from .principals import AccessPolicy
from .wire import ONE

SCHEMAS = "#/components/schemas/{name}"
METHODS = ("get", "put", "post", "patch", "delete")

KEY = {"Idempotency-Key": "Names the message, or the change of whoever asks: the same again has no second effect."}
PREFER = {"Prefer": "`respond-async`: answer at once, before the bot has."}
MATCH = {"If-Match": "ETags, or `*`: write only if the value is one of these."}
NONE_MATCH = {"If-None-Match": "ETags, or `*`: only if the value is none of these."}

TAGS = r'^(\*|(W/)?"[A-Za-z0-9]{1,64}"(, ?(W/)?"[A-Za-z0-9]{1,64}")*)$'

HEADERS: dict[str, dict[str, Any]] = {
    "Idempotency-Key": {"type": "string", "pattern": "^[A-Za-z0-9_-]{1,64}$"},
    "Prefer": {"type": "string"},
    "If-Match": {"type": "string", "pattern": TAGS},
    "If-None-Match": {"type": "string", "pattern": TAGS},
    "Last-Event-ID": {"type": "string", "pattern": r"^[0-9]{1,15}(\.[A-Za-z0-9_-]{0,2000})?$"},
}
"""What the headers look like; more is understood than is told here, and nothing that is told here is refused."""

NAMES: dict[str, dict[str, Any]] = {
    "id": {"type": "string", "minLength": 1, "maxLength": 512, "pattern": r"^[^\x00]+$"},
    "slot": {"type": "string", "minLength": 1, "pattern": r"^[^\x00]+$"},
    "token": {"type": "string", "minLength": 1},
    "user": {"type": "string", "minLength": 1, "maxLength": 512, "pattern": r"^[^\x00]+$"},
    "guest": {"type": "string", "minLength": 1, "maxLength": 512, "pattern": r"^[^\x00]+$"},
    "number": {"type": "string", "pattern": "^[0-9]{1,15}$"},
    "call": {"type": "string", "pattern": "^[0-9a-f]{16}\\.[0-9]{1,2}$"},
    "channel": {"type": "string", "minLength": 1},
    "reply": {"type": "string", "minLength": 1, "maxLength": 40},
    "view": {"type": "string", "minLength": 1, "maxLength": 60},
}
"""What is in the path; percent-encoded, also its slashes."""

TOLD = {
    304: "It is the one that the client knows.",
    400: "The request is not understood; nothing was touched.",
    401: "No credentials, or none that are valid.",
    403: "The token does not allow this.",
    404: "There is nothing at this address, or it is somebody else's.",
    408: "The body did not arrive in time.",
    409: "Something else is going on there; see the type.",
    412: "What is there is not what `If-Match` names; of a state, *etag* and *state* say what it is.",
    413: "The body is too large.",
    415: "The body is of another type, or compressed.",
    422: "Understood, and cannot be done; see the type.",
    428: "A write without a precondition.",
    429: "Too many requests; see Retry-After.",
    500: "It is there and cannot be read, or the bot failed; see the type.",
    503: "Not now; see Retry-After. Nothing was lost.",
}


class Operation(Struct, frozen=True, kw_only=True):
    """What one method at one address takes and gives; the rest is known from its endpoint."""

    takes: Any = None
    media: str = wire.JSON
    needed: bool = True
    query: type[Struct] | None = None
    headers: dict[str, str] = {}
    gives: dict[int, Any]
    answers_with: str = wire.JSON
    refuses: tuple[int, ...] = ()


READ = (500, 503)
WRITE = (409, 422, 500, 503)

OPERATIONS: dict[tuple[str, str], Operation] = {
    ("/v1/me", "get"): Operation(query=tokens.MeQuery, gives={200: answers.Me}, refuses=READ),
    ("/v1/conversations", "post"): Operation(
        takes=wire.NewConversation,
        needed=False,
        gives={200: answers.CreatedConversation, 201: (answers.CreatedConversation, answers.Visit)},
        refuses=WRITE,
    ),
    ("/v1/conversations", "get"): Operation(
        query=wire.ListQuery, gives={200: answers.Conversations}, refuses=(404, *READ)
    ),
    (ONE, "get"): Operation(query=wire.ConversationQuery, gives={200: answers.Conversation}, refuses=READ),
    **{
        (ONE, method): Operation(
            takes=saving.Saving, headers=MATCH | KEY, gives={200: saving.SavedConversation}, refuses=(412, *WRITE)
        )
        for method in ("put", "patch")
    },
    (ONE, "delete"): Operation(gives={204: None}, refuses=WRITE),
    (f"{ONE}/messages", "post"): Operation(
        takes=wire.Incoming,
        headers=KEY | PREFER | {"If-Match": "`*`: only in a conversation that is there."},
        gives={200: answers.Receipt, 202: answers.Receipt},
        refuses=(412, *WRITE),
    ),
    (f"{ONE}/messages", "get"): Operation(query=wire.LogWindow, gives={200: answers.Messages}, refuses=READ),
    **{
        (path, method): operation
        for path in (f"{ONE}/state", f"{ONE}/state/{{slot}}")
        for method, operation in {
            "get": Operation(headers=NONE_MATCH, gives={200: Any, 304: None}, refuses=READ),
            "put": Operation(
                takes=Any, headers=MATCH | NONE_MATCH | KEY, gives={200: Any, 204: None}, refuses=(412, 428, *WRITE)
            ),
            "delete": Operation(headers=MATCH | KEY, gives={204: None}, refuses=(412, *WRITE)),
        }.items()
    },
    (f"{ONE}/state/{{slot}}", "patch"): Operation(
        takes=saving.Merging,
        media=saving.MERGE,
        headers=KEY | {"If-Match": "ETags of the conversation, or `*`: only if it is one of these, or is there."},
        gives={200: saving.MergedValue},
        refuses=(412, *WRITE),
    ),
    (f"{ONE}/losses", "get"): Operation(gives={200: saving.Losses}, refuses=READ),
    (f"{ONE}/losses/{{number}}", "post"): Operation(gives={204: None}, refuses=WRITE),
    ("/v1/me/conversations", "get"): Operation(
        query=people.ListingQuery, gives={200: people.UserListing}, refuses=READ
    ),
    ("/v1/me/events", "get"): Operation(
        query=people.SinceQuery,
        headers={"Last-Event-ID": "The cursor that the client has; wins over `since`."},
        gives={200: str},
        answers_with="text/event-stream",
        refuses=READ,
    ),
    ("/v1/me/claim", "post"): Operation(takes=people.Claiming, gives={200: people.Claimed}, refuses=WRITE),
    ("/v1/me/claim/{guest}", "delete"): Operation(gives={204: None}, refuses=WRITE),
    ("/v1/me/tokens", "get"): Operation(gives={200: devices.Devices}, refuses=READ),
    ("/v1/me/tokens/{token}", "delete"): Operation(gives={204: None}, refuses=WRITE),
    ("/v1/me/tokens/{token}/rotate", "post"): Operation(
        takes=devices.Rotation, needed=False, gives={201: answers.Credential}, refuses=WRITE
    ),
    ("/v1/users/{user}", "delete"): Operation(gives={200: ErasedUser}, refuses=WRITE),
    ("/v1/users/{user}/tokens", "post"): Operation(
        takes=devices.UserTokenAsked, needed=False, gives={201: answers.Credential}, refuses=WRITE
    ),
    ("/v1/users/{user}/tokens", "get"): Operation(gives={200: devices.Devices}, refuses=READ),
    ("/v1/users/{user}/tokens/{token}", "delete"): Operation(gives={204: None}, refuses=WRITE),
    (f"{ONE}/state", "patch"): Operation(
        takes=dict[str, Any],
        media="application/merge-patch+json",
        headers=MATCH | KEY,
        gives={200: Any, 204: None},
        refuses=(412, *WRITE),
    ),
    (f"{ONE}/events", "get"): Operation(
        query=events.EventsQuery,
        headers={
            "Last-Event-ID": "The id of the last event that the client has, or the number of its last message; wins over `after`; the "
            "state is told first."
        },
        gives={200: str},
        answers_with="text/event-stream",
        refuses=READ,
    ),
    (f"{ONE}/answering", "get"): Operation(gives={200: answers.Answering}, refuses=READ),
    (f"{ONE}/waiting", "get"): Operation(gives={200: answers.Messages}, refuses=READ),
    (f"{ONE}/waiting/{{number}}", "put"): Operation(
        takes=running.Amendment, gives={200: answers.Receipt}, refuses=WRITE
    ),
    (f"{ONE}/waiting/{{number}}", "delete"): Operation(gives={204: None}, refuses=WRITE),
    (f"{ONE}/stop", "post"): Operation(gives={200: answers.Stopped}, refuses=WRITE),
    (f"{ONE}/tokens", "post"): Operation(
        takes=tokens.NewToken, needed=False, gives={201: answers.Credential}, refuses=WRITE
    ),
    (f"{ONE}/tokens", "get"): Operation(gives={200: answers.Tokens}, refuses=READ),
    (f"{ONE}/tokens/{{token}}", "delete"): Operation(gives={204: None}, refuses=WRITE),
    (f"{ONE}/tokens/{{token}}/rotate", "post"): Operation(
        takes=devices.Rotation, needed=False, gives={201: answers.Credential}, refuses=WRITE
    ),
    (f"{ONE}/shares", "post"): Operation(
        takes=tokens.NewShare, needed=False, gives={201: answers.Share}, refuses=WRITE
    ),
    ("/v1/shares/redeem", "post"): Operation(
        takes=tokens.Redemption, gives={201: answers.Credential}, refuses=(403, 404, *WRITE)
    ),
    (f"{ONE}/bot", "put"): Operation(takes=operators.Pausing, gives={200: answers.BotStatus}, refuses=WRITE),
    ("/v1/bot", "get"): Operation(gives={200: answers.TenantBotStatus}, refuses=READ),
    ("/v1/bot", "put"): Operation(takes=switches.TenantPausing, gives={200: answers.TenantBotStatus}, refuses=WRITE),
    ("/v1/paused", "get"): Operation(query=switches.PausedQuery, gives={200: answers.Paused}, refuses=READ),
    ("/v1/holds", "get"): Operation(gives={200: holds.HeldThings}, refuses=READ),
    ("/v1/holds", "post"): Operation(takes=holds.Holding, gives={200: holds.HeldThings}, refuses=WRITE),
    ("/v1/holds", "delete"): Operation(query=holds.HeldQuery, gives={200: holds.HeldThings}, refuses=(404, *WRITE)),
    ("/v1/export", "get"): Operation(
        query=exporting.ExportQuery,
        gives={200: str},
        answers_with="application/jsonl",
        refuses=(404, 422, *READ),
    ),
    ("/v1/audit", "get"): Operation(query=audit.AuditQuery, gives={200: answers.Audit}, refuses=READ),
    ("/v1/stats", "get"): Operation(gives={200: switches.ProcessStats}, refuses=READ),
    ("/v1/cache", "get"): Operation(gives={200: answers.CacheStatus}, refuses=READ),
    ("/v1/cache", "put"): Operation(takes=switches.CacheSwitch, gives={200: answers.CacheStatus}, refuses=WRITE),
    (f"{ONE}/operator", "post"): Operation(
        takes=operators.Written,
        headers={"If-Match": "ETags of the conversation, or `*`: say it only if it is one of these, or is there."},
        gives={200: answers.Receipt, 201: answers.Receipt},
        refuses=(412, *WRITE),
    ),
    (f"{ONE}/deliveries", "get"): Operation(gives={200: answers.Deliveries}, refuses=READ),
    (f"{ONE}/deliveries/{{number}}", "post"): Operation(gives={204: None}, refuses=WRITE),
    (f"{ONE}/messages/{{number}}", "delete"): Operation(gives={204: None}, refuses=WRITE),
    (f"{ONE}/changes/{{number}}", "post"): Operation(gives={204: None}, refuses=WRITE),
    (f"{ONE}/as-of/{{number}}", "get"): Operation(gives={200: StateAsOf}, refuses=READ),
    ("/v1/dead-letters", "get"): Operation(
        query=operators.LettersQuery, gives={200: answers.DeadLetters}, refuses=READ
    ),
    (f"{ONE}/dead-letters", "get"): Operation(gives={200: answers.DeadLetters}, refuses=READ),
    (f"{ONE}/dead-letters/{{number}}", "post"): Operation(
        gives={200: answers.Receipt, 201: answers.Receipt}, refuses=WRITE
    ),
    (f"{ONE}/dead-letters/{{number}}", "delete"): Operation(gives={204: None}, refuses=WRITE),
    (f"{ONE}/doubts", "get"): Operation(gives={200: answers.Doubts}, refuses=READ),
    (f"{ONE}/doubts/{{call}}", "post"): Operation(takes=operators.Settlement, gives={204: None}, refuses=WRITE),
    ("/v1/session", "get"): Operation(gives={200: signing_in.SignedInAs}, refuses=READ),
    ("/v1/session", "post"): Operation(
        takes=signing_in.SigningIn, gives={201: signing_in.SignedInAs}, refuses=(401, 403, 429, *WRITE)
    ),
    ("/v1/session", "put"): Operation(gives={204: None}, refuses=WRITE),
    ("/v1/session", "delete"): Operation(gives={204: None}, refuses=WRITE),
    ("/v1/session/password", "put"): Operation(takes=signing_in.NewPassword, gives={204: None}, refuses=WRITE),
    ("/v1/session/oidc", "get"): Operation(gives={303: None}, refuses=(404, *READ)),
    ("/v1/session/oidc/done", "get"): Operation(gives={303: None}, refuses=(404, *READ)),
    ("/v1/desk/conversations", "get"): Operation(query=desk.DeskQuery, gives={200: desk.DeskPage}, refuses=READ),
    ("/v1/desk/health", "get"): Operation(gives={200: desk.DeskHealth}, refuses=READ),
    (f"{ONE}/story", "get"): Operation(gives={200: story.Story}, refuses=READ),
    ("/v1/desk/bulk", "post"): Operation(takes=bulk.Bulk, gives={200: bulk.Outcomes}, refuses=WRITE),
    ("/v1/desk/replies", "get"): Operation(gives={200: canned.CannedReplies}, refuses=READ),
    ("/v1/desk/replies/{reply}", "put"): Operation(
        takes=canned.CannedText, gives={200: canned.CannedReplyShown}, refuses=WRITE
    ),
    ("/v1/desk/replies/{reply}", "delete"): Operation(gives={204: None}, refuses=WRITE),
    ("/v1/desk/present", "get"): Operation(gives={200: presence.PresentPeople}, refuses=READ),
    (f"{ONE}/writing", "put"): Operation(gives={204: None}, refuses=WRITE),
    ("/v1/desk/views", "get"): Operation(gives={200: views.Views}, refuses=READ),
    ("/v1/desk/views/{view}", "put"): Operation(takes=views.ViewSaved, gives={200: views.Views}, refuses=(404, *WRITE)),
    ("/v1/desk/views/{view}", "delete"): Operation(gives={204: None}, refuses=WRITE),
    ("/v1/desk/people", "get"): Operation(gives={200: desk.Colleagues}, refuses=READ),
    (f"{ONE}/assignee", "put"): Operation(takes=operators.Assignment, gives={200: answers.Assigned}, refuses=WRITE),
    (f"{ONE}/notes", "post"): Operation(takes=desk.Noting, gives={204: None}, refuses=WRITE),
    ("/channels/{channel}", "get"): Operation(gives={200: None}, refuses=(404, *READ)),
    ("/channels/{channel}", "post"): Operation(takes=Any, gives={200: None}, refuses=(401, 404, *WRITE)),
    ("/healthz", "get"): Operation(gives={200: answers.Health}),
    ("/readyz", "get"): Operation(gives={200: answers.Health, 503: answers.Health}),
    ("/metrics", "get"): Operation(gives={200: str}, answers_with="text/plain"),
    ("/openapi.json", "get"): Operation(gives={200: Any}),
}
"""Everything that can be asked; a test finds a route of ours that is missing here."""

Schemas = dict[Any, Any]


def document(routes: Iterable[BaseRoute]) -> dict[str, Any]:
    """Return the OpenAPI document of *routes*."""
    schemas, components = known_schemas()
    paths: dict[str, dict[str, Any]] = {}
    for path, method, endpoint in endpoints(routes):
        if operation := OPERATIONS.get((path, method)):
            paths.setdefault(path, {})[method] = described(path, method, endpoint, operation, schemas)
    return {
        "openapi": "3.1.0",
        "info": {"title": "chatkeep", "version": __version__, "description": "Durable conversations."},
        "paths": paths,
        "components": {
            "schemas": components,
            "responses": {
                str(status): {"description": told, **content("application/problem+json", schemas[answers.Problem])}
                for status, told in TOLD.items()
            },
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "cookie": {"type": "apiKey", "in": "cookie", "name": COOKIE},
            },
        },
    }


def endpoints(routes: Iterable[BaseRoute]) -> Iterator[tuple[str, str, Any]]:
    """Return path, method and function of everything that *routes* let people ask."""
    for route in routes:
        if isinstance(route, Route):
            if inspect.isclass(route.endpoint):
                found = [(method, getattr(route.endpoint, method, None)) for method in METHODS]
                yield from [(route.path, method, endpoint) for method, endpoint in found if endpoint is not None]
            else:
                yield route.path, "get", route.endpoint


@cache
def known_schemas() -> tuple[Schemas, dict[str, Any]]:
    """Return what `schemas_of` says of everything that can be asked; it takes most of the time of a start."""
    return schemas_of(OPERATIONS.values())


def schemas_of(operations: Iterable[Operation]) -> tuple[Schemas, dict[str, Any]]:
    """Return the schema of every type that *operations* take or give, and the components that these refer to."""
    types: dict[Any, None] = {answers.Problem: None}
    choices: list[tuple[Any, ...]] = []
    for operation in operations:
        for found in (operation.takes, *operation.gives.values()):
            if isinstance(found, tuple):
                choices.append(found)
            types |= dict.fromkeys(found if isinstance(found, tuple) else (found,))
    known, components = msgspec.json.schema_components(types, ref_template=SCHEMAS)
    generous(known)
    generous(components)
    schemas: Schemas = dict(zip(types, known, strict=True))
    return schemas | {choice: {"anyOf": [schemas[kind] for kind in choice]} for choice in choices}, components


def generous(schema: Any) -> None:
    """Make of msgspec's schemas, in place, what generators of clients understand as it is meant: an object of which nothing is
    said has any members, and a member with a default may be left out (some take the default for a promise that it is there)."""
    if isinstance(schema, dict):
        if schema.get("type") == "object" and not schema.keys() & {"properties", "additionalProperties"}:
            schema["additionalProperties"] = True
        for member in schema.get("properties", {}).values():
            member.pop("default", None)
    for part in schema.values() if isinstance(schema, dict) else schema if isinstance(schema, list | tuple) else ():
        generous(part)


def described(path: str, method: str, endpoint: Any, operation: Operation, schemas: Schemas) -> dict[str, Any]:
    """Return one operation as OpenAPI has it."""
    policy: AccessPolicy = endpoint.policy
    refused = {*operation.refuses, 400} if "{" in path or operation.takes or operation.query else set(operation.refuses)
    refused |= set() if policy.anyone else {401, 403, 404, 429, 503}
    refused |= {408, 413, 415, 429} if operation.takes is not None else set()
    responses = {str(status): {"$ref": f"#/components/responses/{status}"} for status in refused - set(operation.gives)}
    for status, gives in operation.gives.items():
        shown = {} if gives is None else content(operation.answers_with, schemas[gives])
        responses[str(status)] = {"description": TOLD.get(status, "As asked."), **shown}
    found: dict[str, Any] = {
        "operationId": operation_id(path, method),
        "summary": (inspect.getdoc(endpoint) or "").partition("\n")[0],
        "parameters": parameters(path, operation),
        "responses": dict(sorted(responses.items())),
        "security": security(policy),
    }
    if operation.takes is not None:
        found["requestBody"] = {"required": operation.needed, **content(operation.media, schemas[operation.takes])}
    return found


def parameters(path: str, operation: Operation) -> list[dict[str, Any]]:
    """Return the parameters in path, query and headers."""
    names = re.findall(r"{(\w+)}", path)
    found = [{"name": name, "in": "path", "required": True, "schema": NAMES[name]} for name in names]
    if operation.query is not None:
        fields = msgspec.json.schema(operation.query)["$defs"][operation.query.__name__]["properties"]
        found += [
            {"name": name, "in": "query", "required": False, "schema": without_null(schema)}
            for name, schema in fields.items()
        ]
    for name, told in operation.headers.items():
        found.append({"name": name, "in": "header", "required": False, "schema": HEADERS[name], "description": told})
    return found


def without_null(schema: dict[str, Any]) -> dict[str, Any]:
    """Return *schema* for a query, in which what is not given is left out."""
    some = [choice for choice in schema.get("anyOf", []) if choice != {"type": "null"}]
    return some[0] if len(some) == 1 else schema


def security(policy: AccessPolicy) -> list[dict[str, list[str]]]:
    """Return which credentials an endpoint asks for."""
    if policy.anyone:
        return []
    known = ["bearer"] if policy.rulers_only else ["bearer", "cookie"]
    found: list[dict[str, list[str]]] = [{scheme: []} for scheme in known]
    return [*found, {}] if policy.visitor else found


def content(media: str, schema: dict[str, Any]) -> dict[str, Any]:
    """Return a body of one media type."""
    return {"content": {media: {"schema": schema}}}


def operation_id(path: str, method: str) -> str:
    """Return a name for generated clients: getConversations, getConversation, getConversationMessages."""
    words = re.findall(r"\w+", path.removeprefix("/v1").replace("conversations/{id}", "conversation"))
    return method + "".join(word.capitalize() for word in words)


@allows(anyone=True)
async def get_openapi(request: Request) -> Response:
    """Return this description of the API."""
    told = request.app.state.openapi | {"servers": [{"url": quote(request.scope.get("root_path", "")) or "/"}]}
    return wire.as_json(told)

"""JSON-RPC 2.0, for the protocols that are bound to it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from .. import wire
from .entrance import Entrance, NoObject, Refusal

PARSE_ERROR = -32700
BAD_REQUEST, NO_METHOD, BAD_PARAMS, INTERNAL = -32600, -32601, -32602, -32603


class RpcError(Exception):
    """An error with its code, the HTTP status that it is answered with, and what else is told of it."""

    def __init__(self, code: int, message: str, *, status: int = 200, data: Any = None) -> None:
        super().__init__(message)
        self.code, self.status, self.data = code, status, data


async def read_request(entrance: Entrance, request: Request) -> dict[str, Any]:
    """Return the JSON-RPC message in a body. Raises `RpcError` for what is none, and whatever refuses its sender or its size."""
    try:
        body = await entrance.body(request)
    except HTTPException as fault:
        if fault.status_code != 400:
            raise
        code = BAD_REQUEST if isinstance(fault, NoObject) else PARSE_ERROR
        raise RpcError(code, fault.detail, status=400) from None
    id = body.get("id")
    if isinstance(id, bool) or not isinstance(id, str | int | float | None):
        raise RpcError(BAD_REQUEST, "The `id` of a request is text or a number; nothing was touched.", status=400)
    return body


def coded(refusal: Refusal, codes: Mapping[int, int]) -> tuple[int, str, int, dict[str, str]]:
    """Return a refusal as an error: its code, its words, the HTTP status and headers. *codes*: those that a protocol has for a status."""
    if refusal.status in codes:
        return codes[refusal.status], refusal.detail, 200, {}
    if refusal.status >= 500:
        return INTERNAL, refusal.detail, refusal.status, refusal.headers
    http = refusal.status in (401, 403, 429)
    return BAD_PARAMS, refusal.detail, refusal.status if http else 200, refusal.headers


def rpc_error(
    id: Any, code: int, message: str, status: int = 200, headers: dict[str, str] | None = None, *, data: Any = None
) -> Response:
    """Return an error as an answer."""
    error = {"code": code, "message": message} | ({} if data is None else {"data": data})
    told = {"jsonrpc": "2.0", "id": id, "error": error}
    return wire.as_json(told, status=status, headers={**(headers or {}), "cache-control": "no-store"})


def rpc_result(id: Any, result: Any) -> dict[str, Any]:
    """Return a result."""
    return {"jsonrpc": "2.0", "id": id, "result": result}

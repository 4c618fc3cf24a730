"""JSON-RPC 2.0, for the protocols that are bound to it."""

from __future__ import annotations

from typing import Any

from starlette.responses import Response

from .. import wire
from .entrance import Refusal

BAD_REQUEST, NO_METHOD, BAD_PARAMS, INTERNAL = -32600, -32601, -32602, -32603


class RpcError(Exception):
    """An error with its code, the HTTP status that it is answered with, and what else is told of it."""

    def __init__(self, code: int, message: str, *, status: int = 200, data: Any = None) -> None:
        super().__init__(message)
        self.code, self.status, self.data = code, status, data


def coded(refusal: Refusal, *, not_found: int) -> tuple[int, str, int, dict[str, str]]:
    """Return a refusal as an error: its code, its words, the HTTP status and headers. *not_found*: the code of what is not there."""
    if refusal.status == 404:
        return not_found, refusal.detail, 200, {}
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

"""The restaurant's own database of orders: what a business has besides its chat, and what a lost chat is rebuilt from.

A turn may run twice, so everything here may: an order is written whole under its reference, never added to.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Literal

import msgspec
from msgspec import Struct

SCHEMA = """
create table if not exists orders (
    tenant text, guest text, reference text, status text not null, items text not null, pickup integer not null,
    branch text not null, address text not null, payment text not null, changed_at real not null,
    primary key (tenant, guest, reference)
) strict
"""


class Placed(Struct):
    """An order as the kitchen and the bookkeeping see it. A draft is one that its guest has not confirmed."""

    reference: str
    status: Literal["draft", "placed"]
    items: dict[str, int]
    pickup: bool
    branch: str
    address: str
    payment: Literal["cash", "card"]
    changed_at: float


class Orders:
    """The orders in the SQLite file *path*, which is made when the first one is written."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def save(self, tenant: str, guest: str, order: Placed) -> None:
        """Write an order as it is now; an earlier draft of the guest is given up for it."""
        with closing(self._connected()) as orders, orders:
            orders.execute(
                "update orders set status = 'dropped' where tenant = ? and guest = ? and status = 'draft' and reference <> ?",
                (tenant, guest, order.reference),
            )
            orders.execute(
                "insert or replace into orders values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    tenant,
                    guest,
                    order.reference,
                    order.status,
                    msgspec.json.encode(order.items).decode(),
                    order.pickup,
                    order.branch,
                    order.address,
                    order.payment,
                    order.changed_at,
                ),
            )

    def drop_draft(self, tenant: str, guest: str) -> None:
        """Give up what the guest had in the cart."""
        if self.path.exists():
            with closing(self._connected()) as orders, orders:
                orders.execute(
                    "update orders set status = 'dropped' where tenant = ? and guest = ? and status = 'draft'",
                    (tenant, guest),
                )

    def latest(self, tenant: str, guest: str) -> Placed | None:
        """Return the guest's latest order that is a draft or placed. Raises ValueError when it is there and makes no sense."""
        if not self.path.exists():
            return None
        with closing(self._connected()) as orders:
            orders.row_factory = sqlite3.Row
            row = orders.execute(
                "select * from orders where tenant = ? and guest = ? and status in ('draft', 'placed') "
                "order by changed_at desc, rowid desc limit 1",
                (tenant, guest),
            ).fetchone()
        if row is None:
            return None
        return msgspec.convert({**row, "items": msgspec.json.decode(row["items"])}, Placed, strict=False)

    def _connected(self) -> sqlite3.Connection:
        orders = sqlite3.connect(self.path, timeout=5)
        try:
            orders.execute(SCHEMA)
        except BaseException:
            orders.close()
            raise
        return orders

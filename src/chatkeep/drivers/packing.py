"""Makes bodies small at rest: raw deflate, primed with the words that chat logs and their JSON are full of.

A packed body starts with byte 1; any other body is stored as it is (behind a byte 0 in the rare case that it starts
with 0 or 1 itself). The dictionary is part of the format: it may be followed by a second one, never edited.
"""

from __future__ import annotations

import zlib

WORDS = (
    b'"phone":"payment":"status":"city":"notes":"date":"time":"total":"currency":"options":false,"size":true,null,"quantity":'
    b'"description":"https://www."address":{"street":"delivery"pickup"confirmed"email":"customer":"category":[],{}}],"stage":"'
    b'"price":"name":"items":[{"id":"sku":"qty":"cart":[{"state":{'
    b" tomorrow morning afternoon evening booking appointment number available address delivery pickup minutes receipt card cash "
    b"payment confirm confirmed anything else welcome thanks very much how can I help you today What would you like to order "
    b"please send it to my in your cart. That is all at the total is for the large small with without two three of them and one "
    b"more I would like to Thank you for your order please could we have do you have this that will be it is on the to the "
    b'[{"type":"text","text":"'
)
SMALLEST = 48  # shorter bodies gain nothing


def pack(body: bytes) -> bytes:
    """The stored form of *body*."""
    if len(body) >= SMALLEST:
        squeeze = zlib.compressobj(6, zlib.DEFLATED, -12, 5, zlib.Z_DEFAULT_STRATEGY, WORDS)
        packed = b"\1" + squeeze.compress(body) + squeeze.flush()
        if len(packed) < len(body):
            return packed
    return b"\0" + body if body[:1] in (b"\0", b"\1") else body


def unpack(stored: bytes) -> bytes:
    """The body that `pack` was given; a damaged one comes back as something that no checksum fits."""
    if stored[:1] == b"\1":
        try:
            return zlib.decompressobj(-12, WORDS).decompress(stored[1:])
        except zlib.error:
            return stored
    return stored[1:] if stored[:1] == b"\0" else stored

"""Which names and ids every store can keep."""

from __future__ import annotations

from typing import Any

import pytest

from chatkeep import BadKey, BadMessage, UsageError
from chatkeep.conversation.keys import (
    LONGEST_ID,
    check_numbers,
    check_user,
    key_for,
    message_id,
    refuse_reserved,
    way_out,
)
from chatkeep.drivers.base import Key

ADA = Key("", "ada")
LONGEST = "é" * (LONGEST_ID // 2)
WRONG: list[Any] = ["\0", "a\0b", "é\0", "\ud800", "a" * (LONGEST_ID + 1), LONGEST + "a", 7, None, ["ada"], b"ada"]


@pytest.mark.parametrize("name", ["a", "a" * LONGEST_ID, LONGEST, "~ada", " "])
def test_any_text_of_so_many_bytes_is_a_name(name: str) -> None:
    """Of a conversation, of a user, and the id of a message."""
    assert (Key("", name), name, name) == (key_for("", name), check_user(name), message_id(ADA, name))


@pytest.mark.parametrize("name", WRONG)
def test_what_not_every_store_keeps_is_no_name(name: Any) -> None:
    """Whatever it is the name of."""
    with pytest.raises(BadKey, match="conversation id"):
        key_for("", name)
    with pytest.raises(BadKey, match="tenant"):
        key_for(name, "ada")
    with pytest.raises(BadKey, match="user's name"):
        check_user(name)
    with pytest.raises(BadMessage, match="a message id is text, 1 to 512 bytes"):
        message_id(ADA, name)


def test_nothing_is_no_name_but_of_a_tenant() -> None:
    """There is one tenant without a name."""
    for check in (lambda: key_for("salon", ""), lambda: check_user("")):
        with pytest.raises(BadKey, match="is empty"):
            check()
    with pytest.raises(BadMessage):
        message_id(ADA, "")

    assert Key("", "ada") == key_for("", "ada")


def test_what_begins_with_a_tilde_is_chatkeeps_own() -> None:
    """As a tenant, and as a message's id where somebody else gives it."""
    with pytest.raises(BadKey, match="are chatkeep's own"):
        key_for("~keys", "ada")
    with pytest.raises(BadMessage, match="are chatkeep's own"):
        refuse_reserved(ADA, "~reply:1")
    refuse_reserved(ADA, "reply:~1")
    refuse_reserved(ADA, None)


@pytest.mark.parametrize("number", ["1", 1.0, True, b"1", None])
def test_an_entry_is_named_by_a_whole_number(number: Any) -> None:
    """Text such as "1" reads like one."""
    with pytest.raises(UsageError, match="named by whole numbers"):
        check_numbers(ADA, 1, number)
    check_numbers(ADA, 1, -5)


@pytest.mark.parametrize(
    ("tenant", "name", "says"),
    [
        ("", "ada", "restore it or erase the conversation"),
        ("salon", "switches", "restore it or erase the conversation"),
        ("~chatkeep", "switches", "chatkeep resume STORE"),
        ("~chatkeep", "clock", "after an hour"),
        ("~holds:salon", "switches", "chatkeep unhold"),
        ("~access", "sha256", "revoke the credential"),
        ("~keys", "holds", "restore it from a backup of the store"),
        ("~chatkeep", "unheard of", "restore it from a backup of the store"),
    ],
)
def test_what_is_done_about_a_damaged_record_goes_by_what_it_is(tenant: str, name: str, says: str) -> None:
    """What chatkeep has itself is found by its name, or by its space, whatever names are in that; a conversation may have any name."""
    assert says in way_out(Key(tenant, name))

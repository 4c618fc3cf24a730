"""Whose the messages of an outbox are."""

from __future__ import annotations

from chatkeep.client.owners import Holder, Totals, credential_of


def test_without_a_token_what_is_posted_is_this_run_s() -> None:
    """Two runs are two owners."""
    holder = Holder()
    credential, subject = holder.owners

    assert credential == subject != Holder().owners[0]
    assert credential.startswith("run:")
    assert not holder.is_unnamed
    assert holder.owners_of(None) == holder.owners


def test_a_token_stands_for_itself_until_its_subject_is_told() -> None:
    """Then for both; what is remembered replaces what was."""
    holder = Holder()
    holder.token = "ck_u_1"
    before, unnamed = holder.owners, holder.is_unnamed
    holder.name("ck_u_1", "ada's")
    named = holder.owners, holder.is_unnamed
    holder.remember({credential_of("ck_u_2"): "ben's"})

    assert ((credential_of("ck_u_1"),) * 2, True) == (before, unnamed)
    assert ((credential_of("ck_u_1"), "ada's"), False) == named
    assert (credential_of("ck_u_2"), "ben's") == holder.owners_of("ck_u_2")
    assert holder.is_unnamed


def test_numbers_are_counted_by_owner() -> None:
    """An owner that is named twice counts once, and asking for one that has nothing leaves nothing behind."""
    totals = Totals()
    totals.add("ada's", 2, 0)
    totals.add("ada's", -1, 1)
    totals.add("ben's", 3, 0)

    assert [(1, 1), (4, 1), (0, 0)] == [
        totals.of(owners) for owners in (("ada's",) * 2, ("ada's", "ben's"), ("x", "y"))
    ]
    assert 5 == totals.all
    totals.clear()
    assert (0, (0, 0)) == (totals.all, totals.of(("ada's",)))

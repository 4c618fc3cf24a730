-- One row per conversation, one per log entry. Bodies are bytes to the store: packed JSON, see drivers/packing.py.

create table meta (name text primary key, value text not null) without rowid;

create table conversation (
    number        integer primary key autoincrement, -- never reused: entries hang on it, not on the key
    tenant        text    not null,
    id            text    not null,
    revision      text    not null,
    born          text    not null,
    head          integer not null,
    body          blob    not null,
    owner         text    not null,
    updated_at    real    not null,
    recent        integer not null, -- updated_at in coarse steps, so that a turn leaves its index alone
    due_at        real,
    claim         text,
    claimed_until real    not null,
    wake          real    generated always as (max(due_at, claimed_until)) virtual, -- null when due_at is
    unique (tenant, id)
);
create index conversation_wake   on conversation (wake) where wake is not null;
create index conversation_owner  on conversation (tenant, owner, id) where owner <> '';
create index conversation_recent on conversation (tenant, recent);

-- Append-only, so that the turns of one commit share its last page.
create table entry (
    conversation integer not null,
    number       integer not null,
    id           text    not null, -- '' for what nobody will ever send again
    role         text    not null,
    body         blob    not null
);
create unique index entry_number on entry (conversation, number);
create unique index entry_id     on entry (conversation, id) where id <> '';

create table tombstone (key blob primary key, mark real not null) without rowid; -- key: a hash, not the name
create index tombstone_mark on tombstone (mark);

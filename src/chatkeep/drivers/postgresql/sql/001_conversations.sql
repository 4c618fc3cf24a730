-- One row per conversation, one per log entry. Bodies are JSON text as bytes; the views in 003 show them as jsonb.
-- For another schema replace "chatkeep." and create that one. The driver runs these files itself where it may.

create table chatkeep.meta (name text primary key, value text not null);

create table chatkeep.conversation (
    number        bigint generated always as identity, -- never reused: entries hang on it, not on the key
    tenant        text   collate "C" not null,
    id            text   collate "C" not null,
    born          text   not null,
    owner         text   collate "C" not null,
    created_at    float8 not null,
    erased_at     float8,                               -- mark of the erasure before this incarnation
    recent        bigint not null,                      -- updated_at in coarse steps, so that a turn leaves its index alone
    due_at        float8,
    claim         text,
    claimed_until float8 not null,
    wake          float8 generated always as (case when due_at is not null then greatest(due_at, claimed_until) end) stored,
    updated_at    float8 not null,                      -- from here on: what every turn changes
    head          bigint not null,
    revision      text   not null,
    body          bytea  not null,
    primary key (tenant, id)
) with (fillfactor = 70); -- room for the next version of a row beside it: no index has to learn where it went
create index conversation_wake   on chatkeep.conversation (wake, tenant, id) where wake is not null;
create index conversation_owner  on chatkeep.conversation (owner, tenant, id) where owner <> '';
create index conversation_recent on chatkeep.conversation ((tenant || ''), recent);

create table chatkeep.entry (
    conversation bigint not null,
    number       bigint not null,
    id           text   collate "C" not null, -- '' for what nobody will ever send again
    role         text   not null,
    body         bytea  not null,
    primary key (conversation, number)
);
create unique index entry_id on chatkeep.entry (id, (-conversation)) where id <> '';

-- Two indexes hold expressions that say nothing new, so that each statement can use one index only. The planner would take
-- conversation_recent for a way to one row, or walk a whole log in search of an id, whenever its statistics are old. In entry_id
-- the id comes first: before 17 the planner would rather look up the conversation alone, and filter.

create table chatkeep.tombstone (key bytea primary key, mark float8 not null); -- key: a hash, not the name
create index tombstone_mark on chatkeep.tombstone (mark);

insert into chatkeep.meta (name, value) values ('epoch', gen_random_uuid()::text), ('schema', '1');

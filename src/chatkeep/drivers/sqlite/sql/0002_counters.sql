-- Hits of rate limits, by hashed names: windows that begin with their first hit.

create table counter (name text primary key, hits integer not null, ends real not null) without rowid;
create index counter_ends on counter (ends);

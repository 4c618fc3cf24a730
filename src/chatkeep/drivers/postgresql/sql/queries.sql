-- Every statement of drivers/postgresql.py, beside the functions of 002. "chatkeep." becomes the schema in use.

-- name: commit_acts
select * from chatkeep.commit_acts($1, $2, $3, $4, $5, $6, $7, $8);

-- name: read_logs
select * from chatkeep.read_logs($1, $2, $3, $4);

-- name: pick_entries
select * from chatkeep.pick_entries($1, $2, $3, $4, $5);

-- name: scan
select * from chatkeep.scan($1, $2, $3, $4, $5, $6, $7, $8, $9, $10);

-- name: scan_recent
select * from chatkeep.scan_recent($1, $2, $3, $4, $5, $6, $7);

-- name: scan_recent_all
-- (The index begins with the tenant. So each tenant's newest step is looked up, and from these a step behind which a whole page stands
-- for certain: that of the last of so many tenants, or of the last of so many rows of one. No row of before is read. "offset 0" has
-- the planner look into the index for each tenant. Of so many tenants that this would take longer than all rows, all are read.)
with recursive tenants(tenant, place) as (
    (select c.tenant || '', 1 from chatkeep.conversation c order by c.tenant || '' limit 1)
    union all
    select (select c.tenant || '' from chatkeep.conversation c where c.tenant || '' > t.tenant order by c.tenant || '' limit 1),
           t.place + 1
    from tenants t where t.tenant is not null and t.place < 2000
), newest as materialized (
    select t.tenant, (
        select c.recent from chatkeep.conversation c where c.tenant || '' = t.tenant and c.recent < $5::bigint order by c.recent desc limit 1
    ) as recent
    from tenants t where t.tenant is not null
), first as materialized (
    select greatest(
        (select n.recent from newest n where n.recent is not null order by n.recent desc limit 1 offset $7::bigint - 1),
        (select max((
            select c.recent from chatkeep.conversation c where c.tenant || '' = n.tenant and c.recent < $5::bigint
            order by c.recent desc limit 1 offset $7::bigint - 1
        )) from (select m.tenant from newest m where m.recent is not null order by m.recent desc limit $7::bigint) n),
        -9223372036854775808
    ) as recent
)
(
    select c.* from newest n cross join lateral (
        select c.* from chatkeep.conversation c
        where c.tenant || '' = n.tenant and c.recent <= $5::bigint and c.recent >= (select f.recent from first f) offset 0
    ) c
    where $2::text is null and (select max(t.place) from tenants t) < 2000 and not chatkeep.is_replaced($1::text)
      and (c.recent < $5::bigint or c.updated_at < $6::float8
           or (c.updated_at = $6::float8 and (c.tenant, c.id) > ($3::text, $4::text)))
    order by c.recent desc, c.updated_at desc, c.tenant, c.id limit $7::bigint
)
union all
select c.* from chatkeep.scan_recent($1, null, $3, $4, $5, $6, $7) c where (select max(t.place) from tenants t) >= 2000
union all
select (null::chatkeep.conversation).* where chatkeep.is_replaced($1::text);

-- name: scan_recent_since
-- No more are looked for than have changed since: mostly none, and the index tells that by itself.
select * from chatkeep.scan_recent(
    $1, $2, $3, $4, $5, $6, (select least(count(*), $7::bigint) from chatkeep.conversation where recent >= $8::bigint)
) where id is null or updated_at >= $9;

-- name: announce
-- Nothing is lost with an announcement, so its commit need not wait for the disk. ($1, the epoch, is of no use here.)
select $1::text, set_config('synchronous_commit', 'off', true), pg_notify($2, piece) from unnest($3::text[]) piece;

-- name: greet
select (select value::int from chatkeep.meta where name = 'schema') as schema,
       (select value from chatkeep.meta where name = 'epoch') as epoch,
       pg_is_in_recovery() as standby,
       current_setting('transaction_isolation') as isolation,
       current_setting('fsync') as fsync,
       current_setting('full_page_writes') as full_page_writes;

-- name: examine_server
select extract(epoch from clock_timestamp())::float8 as now,
       current_setting('server_version') as version,
       pg_is_in_recovery() as standby,
       current_setting('fsync') as fsync,
       current_setting('full_page_writes') as full_page_writes,
       reset.synchronous_commit, reset.isolation, reset.idle_timeout, reset.lock_timeout,
       current_setting('data_checksums') as data_checksums,
       current_setting('max_connections')::int as max_connections,
       (select count(*)::int from pg_stat_activity where backend_type = 'client backend') as connections
from (
    select max(setting) filter (where name = 'synchronous_commit') as synchronous_commit,
           max(setting) filter (where name = 'default_transaction_isolation') as isolation,
           max(setting) filter (where name = 'idle_in_transaction_session_timeout') as idle_timeout,
           max(setting) filter (where name = 'lock_timeout') as lock_timeout
    from pg_settings
) reset;

-- name: examine_schema
select (select value::int from chatkeep.meta where name = 'schema') as schema,
       (select value from chatkeep.meta where name = 'epoch') as epoch,
       array(
           select format('%s on %s', what, relname)
           from pg_class c
           cross join unnest(case when relname = 'meta' then array['select'] else array['select', 'insert', 'update', 'delete'] end) what
           where c.relnamespace = to_regnamespace($1) and c.relkind = 'r' and not has_table_privilege(c.oid, what)
             and relname not like 'search\_%' -- (the full-text index is its owner's)
           union all
           select format('execute on %s', proname)
           from pg_proc p -- (what runs with its owner's rights asks by itself who may)
           where p.pronamespace = to_regnamespace($1) and not p.prosecdef and not has_function_privilege(p.oid, 'execute')
       ) as refused;

-- name: examine_tables
select s.relname as name, s.n_live_tup as live, s.n_dead_tup as dead,
       current_setting('autovacuum') = 'off' or coalesce(c.reloptions::text like '%autovacuum_enabled=false%', false) as vacuum_off
from pg_stat_user_tables s join pg_class c on c.oid = s.relid
where s.schemaname = $1 and s.relname in ('conversation', 'entry')
order by 1;

-- name: search
select * from chatkeep.search($1, $2, $3, $4, $5, $6, $7);

-- name: index_text
select * from chatkeep.index_text($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11);

-- name: count_hits
select hits, ends from chatkeep.count_hits($1, $2, $3, $4, $5) order by place;

-- name: forget_counters
-- ($1, the epoch, is of no use here.)
select $1::text, chatkeep.forget_counters($2);

-- name: set_epoch
select chatkeep.set_epoch($1, $2) as fenced;

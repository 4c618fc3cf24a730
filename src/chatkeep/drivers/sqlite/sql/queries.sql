-- Every statement of drivers/sqlite.py. {ids} and {places} become one parameter per entry id that must not be there yet.
-- (Bodies are cast when they are read: whatever somebody's SQL has put there comes out as bytes, and its checksum says the rest.)

-- name: find
select number, revision, born, head, cast(body as blob), owner, updated_at, due_at, claim, claimed_until
from conversation where tenant = :tenant and id = :id;

-- name: rewrite
-- The common turn: revision, head and body change, no index does. (By place: revision, added, body, at, tenant, id, replaces,
-- born, recent, due_at, claim, claimed_until, owner, epoch.)
update conversation set revision = ?1, head = head + ?2, body = ?3, updated_at = ?4
where tenant = ?5 and id = ?6 and revision = ?7 and born = ?8
  and recent = ?9 and due_at is ?10 and claim is ?11 and claimed_until = ?12 and owner = ?13
  and exists (select 1 from meta where name = 'epoch' and value = ?14)
  and not exists (select 1 from entry where conversation = conversation.number and entry.id in ({places}) and entry.id <> '')
returning number, head;

-- name: write
update conversation set revision = ?1, head = head + ?2, body = ?3, updated_at = ?4, recent = ?9, due_at = ?10, claim = ?11,
                        claimed_until = ?12, owner = ?13
where tenant = ?5 and id = ?6 and revision = ?7 and born = ?8
  and exists (select 1 from meta where name = 'epoch' and value = ?14)
  and not exists (select 1 from entry where conversation = conversation.number and entry.id in ({places}) and entry.id <> '')
returning number, head;

-- name: create
insert into conversation (tenant, id, revision, born, head, body, owner, updated_at, recent, due_at, claim, claimed_until)
select :tenant, :id, :revision, :born, :head + :added, :body, :owner, :at, :recent, :due_at, :claim, :claimed_until
where not exists (select 1 from tombstone where key = :mark and mark >= :at)
on conflict (tenant, id) do nothing
returning number, head;

-- name: append
update conversation set revision = :revision, head = head + :added, updated_at = :at, recent = :recent,
                        due_at = min(coalesce(due_at, :due_at), coalesce(:due_at, due_at)),
                        claim = coalesce(claim, :claim),
                        claimed_until = case when claim is null then :claimed_until else claimed_until end
where tenant = :tenant and id = :id and revision <> :revision
  and exists (select 1 from meta where name = 'epoch' and value = :epoch)
  and not exists (select 1 from entry where conversation = conversation.number and entry.id in ({ids}) and entry.id <> '')
  and not exists (select 1 from tombstone where key = :mark and mark >= :at)
returning number, revision, born, head, cast(body as blob), owner, updated_at, due_at, claim, claimed_until;

-- name: add
insert into entry (conversation, number, id, role, body) values {rows};

-- name: known
select id, number from entry where conversation = :conversation and id in ({ids}) and id <> '';

-- name: after
select number, id, role, cast(body as blob) from entry where conversation = :conversation and number > :after order by number limit :limit;

-- name: between
select e.number, e.id, e.role, cast(e.body as blob) from conversation c join entry e on e.conversation = c.number
where c.tenant = :tenant and c.id = :id and e.number > :after and e.number < :before order by e.number limit :limit;

-- name: before
select e.number, e.id, e.role, cast(e.body as blob) from conversation c join entry e on e.conversation = c.number
where c.tenant = :tenant and c.id = :id and e.number < :before order by e.number desc limit :limit;

-- name: with_ids
select e.number, e.id, e.role, cast(e.body as blob) from conversation c join entry e on e.conversation = c.number
where c.tenant = :tenant and c.id = :id and e.id in ({ids}) and e.id <> '' order by e.number limit :limit;

-- name: drop
delete from entry where conversation = :conversation and number <= :drop;

-- name: blank
update entry set body = x'' where conversation = :conversation and number = :number;

-- name: mark
select mark from tombstone where key = :mark and mark >= :at;

-- name: bury
insert into tombstone (key, mark) values (:mark, :at) on conflict (key) do update set mark = max(mark, excluded.mark);

-- name: forget_marks
delete from tombstone where mark < :before;

-- name: erase_entries
delete from entry where conversation = :conversation;

-- name: erase
delete from conversation where number = :conversation;

-- name: scan_key
select tenant, id, revision, born, head, cast(body as blob), owner, updated_at, due_at, claim, claimed_until from conversation
where tenant = :within and id > :id
order by id limit :limit;

-- name: scan_key_all
select tenant, id, revision, born, head, cast(body as blob), owner, updated_at, due_at, claim, claimed_until from conversation
where (tenant, id) > (:tenant, :id)
order by tenant, id limit :limit;

-- name: scan_due
select tenant, id, revision, born, head, cast(body as blob), owner, updated_at, due_at, claim, claimed_until from conversation
where wake is not null and wake <= :until and wake >= :wake
  and (:within is null or tenant = :within) and (wake > :wake or (tenant, id) > (:tenant, :id))
order by wake, tenant, id limit :limit;

-- name: scan_owner
select tenant, id, revision, born, head, cast(body as blob), owner, updated_at, due_at, claim, claimed_until from conversation
where tenant = :within and owner = :owner and owner <> '' and id > :id
order by id limit :limit;

-- name: scan_owner_all
select tenant, id, revision, born, head, cast(body as blob), owner, updated_at, due_at, claim, claimed_until from conversation
where owner = :owner and owner <> '' and (tenant, id) > (:tenant, :id)
order by tenant, id limit :limit;

-- name: scan_recent
select tenant, id, revision, born, head, cast(body as blob), owner, updated_at, due_at, claim, claimed_until from conversation
where tenant = :within and recent <= :recent and recent >= :first and updated_at >= :since
  and (recent < :recent or updated_at < :updated_at or (updated_at = :updated_at and id > :id))
order by recent desc, updated_at desc, id limit :limit;

-- name: scan_recent_all
-- (The index begins with the tenant. So each tenant's newest step is looked up, and from these a step behind which a whole page stands
-- for certain: that of the last of so many tenants, or of the last of so many rows of one. No row of before is read.
-- Of very many tenants the index is walked instead, and it alone.)
with recursive tenants(tenant) as (
    select min(tenant) from conversation
    union all
    select (select min(c.tenant) from conversation c where c.tenant > tenants.tenant) from tenants where tenants.tenant is not null
    limit 20000
),
many(yes) as materialized (select count(*) = 20000 from tenants),
newest(tenant, recent) as materialized (
    select tenant, (select max(c.recent) from conversation c where c.tenant = tenants.tenant and c.recent < :recent)
    from tenants where tenant is not null and not (select yes from many)
),
first(recent) as materialized (
    select case when (select yes from many) then coalesce(
        (select c.recent from conversation c where c.recent < :recent order by c.recent desc limit 1 offset :limit - 1), :first
    ) else max(
        coalesce((select recent from newest where recent is not null order by recent desc limit 1 offset :limit - 1), :first),
        coalesce((
            select max((
                select c.recent from conversation c where c.tenant = n.tenant and c.recent < :recent
                order by c.recent desc limit 1 offset :limit - 1
            )) from (select tenant from newest where recent is not null order by recent desc limit :limit) n
        ), :first)
    ) end
)
select tenant, id, revision, born, head, cast(body as blob), owner, updated_at, due_at, claim, claimed_until from conversation
where number in (
    select c.number from newest cross join conversation c
    where c.tenant = newest.tenant and c.recent <= :recent and c.recent >= (select recent from first)
    union all
    select c.number from many cross join conversation c
    where many.yes and c.recent <= :recent and c.recent >= (select recent from first)
  )
  and (recent < :recent or updated_at < :updated_at or (updated_at = :updated_at and (tenant, id) > (:tenant, :id)))
order by recent desc, updated_at desc, tenant, id limit :limit;

-- name: scan_recent_since
-- (Which rows are as new the index tells by itself: no other is read.)
select tenant, id, revision, born, head, cast(body as blob), owner, updated_at, due_at, claim, claimed_until from conversation
where number in (select number from conversation where recent >= :first and recent <= :recent) and updated_at >= :since
  and (recent < :recent or updated_at < :updated_at or (updated_at = :updated_at and (tenant, id) > (:tenant, :id)))
order by recent desc, updated_at desc, tenant, id limit :limit;

-- name: count
insert into counter (name, hits, ends) values (:name, :cost, :at + :window)
on conflict (name) do update set hits = case when ends <= :at then 0 else hits end + :cost,
                                 ends = case when ends <= :at then :at + :window else min(ends, :at + :window) end
returning hits, ends;

-- name: forget_counters
delete from counter where ends < :before;

-- name: epoch
select value from meta where name = 'epoch';

-- name: fence
update meta set value = :epoch where name = 'epoch';

-- Hits of rate limits, by hashed names: windows that begin with their first hit. The table is not written to the log, so that a hit
-- costs no flush to disk, and a crash of the server empties it.
drop table if exists chatkeep.rates;

create unlogged table chatkeep.counter (
    name text   collate "C" primary key,
    hits bigint not null,
    ends float8 not null
) with (fillfactor = 70);
create index counter_ends on chatkeep.counter (ends);

-- Counts hits one after another: names in order, so that no two calls lock crosswise. $1, the epoch, is of no use here.
create function chatkeep.count_hits(epoch text, names text[], windows float8[], ats float8[], costs bigint[])
returns table (place bigint, hits bigint, ends float8) language plpgsql volatile as $$
#variable_conflict use_column
declare
    hit record;
begin
    for hit in
        select asked.place, asked.name, asked.span, asked.at, asked.cost
        from unnest(names, windows, ats, costs) with ordinality as asked (name, span, at, cost, place)
        order by asked.name, asked.place
    loop
        place := hit.place;
        insert into chatkeep.counter as there (name, hits, ends) values (hit.name, hit.cost, hit.at + hit.span)
        on conflict (name) do update set
            hits = case when there.ends <= hit.at then 0 else there.hits end + hit.cost,
            ends = case when there.ends <= hit.at then hit.at + hit.span else least(there.ends, hit.at + hit.span) end
        returning there.hits, there.ends into hits, ends;
        return next;
    end loop;
end $$;

-- Removes some of the counters whose windows ended before a time, and waits for nobody.
create function chatkeep.forget_counters(before float8) returns void language sql volatile as $$
    delete from chatkeep.counter
    where name in (select name from chatkeep.counter where ends < before order by name limit 1000 for update skip locked);
$$;

update chatkeep.meta set value = '5' where name = 'schema';

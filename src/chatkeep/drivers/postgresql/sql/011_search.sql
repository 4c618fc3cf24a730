-- The full-text index: which words are in which entries. Its tables and triggers are made when somebody asks for them, and these functions
-- are all that a store has of it until then. The two verbs and the triggers run with their owner's rights, and the rest under them: a service
-- that owns nothing may ask for the index too, and users, who may be given all tables to read, read nothing in it. What a word is, the
-- caller says.

create function chatkeep.has_search_index() returns boolean language sql stable set search_path = pg_catalog, pg_temp as $$
    select to_regclass('chatkeep.search_progress') is not null
$$;

create function chatkeep.refuse_users() returns void language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
    if not chatkeep.is_service(chatkeep.caller()) then
        raise insufficient_privilege using message = 'The full-text index is for services, which may write the tables. Nothing was touched.';
    end if;
end
$$;

-- Entries that were written wait for their words.
create function chatkeep.note_unindexed() returns trigger language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    insert into chatkeep.search_waiting (conversation, number) select n.conversation, n.number from noted n on conflict do nothing;
    return null;
end
$$;

-- Entries that were removed, or have lost their bodies, take their words with them.
create function chatkeep.take_words() returns trigger language plpgsql security definer set search_path = pg_catalog, pg_temp
set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off set plan_cache_mode = force_generic_plan as $$
begin
    delete from chatkeep.search_waiting w using noted n
    where w.conversation = n.conversation and w.number = n.number and (tg_op = 'DELETE' or n.body = '');
    delete from chatkeep.search_entry s using noted n
    where s.conversation = n.conversation and s.number = n.number and (tg_op = 'DELETE' or n.body = '');
    return null;
end
$$;

-- The row of a conversation that is new, or has another body than before, waits for its words, as number 0.
create function chatkeep.note_unindexed_row() returns trigger language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    insert into chatkeep.search_waiting (conversation, number) values (new.number, 0) on conflict do nothing;
    return null;
end
$$;

-- Those that were removed take their words with them.
create function chatkeep.take_row_words() returns trigger language plpgsql security definer set search_path = pg_catalog, pg_temp
set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off set plan_cache_mode = force_generic_plan as $$
begin
    delete from chatkeep.search_waiting w using noted n where w.conversation = n.number and w.number = 0;
    delete from chatkeep.search_entry s using noted n where s.conversation = n.number and s.number = 0;
    return null;
end
$$;

-- Makes the index, or removes it with every word in it. Under the locks nobody writes: whoever wrote before is seen, whoever writes later is
-- noted. They are waited for longer than others, and once: after a second the server ends a vacuum that is in the way.
create function chatkeep.keep_search_index(epoch text, wanted boolean) returns void language plpgsql volatile
set search_path = pg_catalog, pg_temp set lock_timeout = '1500ms' as $$
begin
    begin
        if wanted then
            lock table chatkeep.conversation, chatkeep.entry in share row exclusive mode;
        else
            lock table chatkeep.conversation, chatkeep.entry in access exclusive mode;
        end if;
    exception when lock_not_available then
        raise object_in_use using message = 'a backup, or a transaction that somebody has left open, holds the tables of chatkeep';
    end;
    if wanted = chatkeep.has_search_index() or chatkeep.is_replaced(epoch) then
        return;
    elsif not wanted then
        drop trigger search_new on chatkeep.entry;
        drop trigger search_gone on chatkeep.entry;
        drop trigger search_blank on chatkeep.entry;
        drop trigger search_row_new on chatkeep.conversation;
        drop trigger search_row_changed on chatkeep.conversation;
        drop trigger search_row_gone on chatkeep.conversation;
        drop table chatkeep.search_entry, chatkeep.search_waiting, chatkeep.search_progress;
        drop index if exists chatkeep.conversation_number;
        return;
    end if;

    create table chatkeep.search_entry (
        place        bigint   primary key, -- rises with the time at which the entry was written
        conversation bigint   not null,
        number       bigint   not null,
        words        tsvector not null,    -- each with w before it, and the tenant with t
        unique (conversation, number)
    );
    create index search_entry_words on chatkeep.search_entry using gin (words) with (gin_pending_list_limit = 512); -- so no act sorts in much at once

    -- Entries that came since the index was made, and whose words are not in it yet. Number 0 is the row of the conversation, here as there.
    create table chatkeep.search_waiting (conversation bigint not null, number bigint not null, primary key (conversation, number));

    -- Of what was there before, all from (conversation, number) on has been gone through; total: the highest conversation of then.
    create table chatkeep.search_progress (total bigint not null, conversation bigint not null, number bigint not null);

    -- (Without a policy, whoever does not own them sees no row.)
    alter table chatkeep.search_entry enable row level security;
    alter table chatkeep.search_waiting enable row level security;
    alter table chatkeep.search_progress enable row level security;

    create index if not exists conversation_number on chatkeep.conversation (number);
    insert into chatkeep.search_progress (total, conversation, number)
    select coalesce(max(c.number), 0), coalesce(max(c.number), 0) + 1, 0 from chatkeep.conversation c;

    create trigger search_new after insert on chatkeep.entry
        referencing new table as noted for each statement execute function chatkeep.note_unindexed();
    create trigger search_gone after delete on chatkeep.entry
        referencing old table as noted for each statement execute function chatkeep.take_words();
    create trigger search_blank after update on chatkeep.entry
        referencing new table as noted for each statement execute function chatkeep.take_words();
    create trigger search_row_new after insert on chatkeep.conversation
        for each row execute function chatkeep.note_unindexed_row();
    create trigger search_row_changed after update on chatkeep.conversation
        for each row when (new.body <> old.body) execute function chatkeep.note_unindexed_row();
    create trigger search_row_gone after delete on chatkeep.conversation
        referencing old table as noted for each statement execute function chatkeep.take_row_words();
end
$$;

-- The entries that were there before the index and have not been gone through, the newest conversation first; its row comes last.
create function chatkeep.old_unindexed(most int) returns setof chatkeep.entry language plpgsql volatile
set search_path = pg_catalog, pg_temp set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off
set plan_cache_mode = force_generic_plan as $$
declare
    reached record;
begin
    select p.conversation, p.number into reached from chatkeep.search_progress p;
    return query
    select * from (
        (select e.* from chatkeep.entry e
         where (e.conversation, e.number) < (reached.conversation, reached.number) and e.body <> ''
           and exists (select from chatkeep.conversation c where c.number = e.conversation)
         order by e.conversation desc, e.number desc limit most)
        union all
        (select c.number, 0, c.revision, '', c.body from chatkeep.conversation c
         where c.number <= reached.conversation and (c.number, 0) < (reached.conversation, reached.number)
         order by c.number desc limit most)
    ) o (conversation, number, id, role, body)
    order by o.conversation desc, o.number desc limit most;
end
$$;

-- Puts in the words of entries, those that are still there, and notes how far the old ones have been gone through. words: of each entry, as
-- JSON; places: of each but rows, the first one in the second in which it was written, which has so many slots.
create function chatkeep.put_words(
    conversations bigint[], numbers bigint[], places bigint[], words text[], revisions text[], slots int, near bigint
)
returns void language plpgsql volatile
set search_path = pg_catalog, pg_temp set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off
set plan_cache_mode = force_generic_plan as $$
declare
    free    bigint;
    start   bigint;
    there   record;
    old     record;
    reached record;
begin
    -- One at a time gives out places. Whoever comes meanwhile puts in nothing, and is handed out what lacks then.
    perform from chatkeep.search_progress for update skip locked;
    if not found then
        return;
    end if;
    -- An act that erases, cuts or blanks changes the conversation: either it is committed, and seen below, or it waits, and then takes
    -- out what is put in here.
    perform from chatkeep.conversation c where c.number = any (conversations) order by c.tenant, c.id for share;
    for n in 1 .. cardinality(conversations) loop
        start := places[n];
        if numbers[n] = 0 then
            select c.revision, floor(greatest(least(c.updated_at, 1e15), 0))::bigint * slots as place,
                   array_to_tsvector(array(select 'w' || w from json_array_elements_text(put_words.words[n]::json) w) || ('t' || c.tenant)) as words
            into there from chatkeep.conversation c where c.number = conversations[n];
            continue when not found;
            if there.revision <> revisions[n] then -- it was changed meanwhile, and is handed out again
                insert into chatkeep.search_waiting (conversation, number) values (conversations[n], 0) on conflict do nothing;
                continue;
            end if;
            -- One that has these words stays where it is, if that is near enough to where it would be now in the order of the index recent.
            start := there.place;
            delete from chatkeep.search_entry s
            where s.conversation = conversations[n] and s.number = 0 and not (abs(s.place - start) < near and s.words = there.words);
        end if;
        loop
            select coalesce(max(s.place) + 1, start) into free
            from chatkeep.search_entry s where s.place >= start and s.place < start + slots;
            exit when free < start + slots;
            start := start + slots;
        end loop;
        insert into chatkeep.search_entry (place, conversation, number, words)
        select free, c.number, numbers[n],
               array_to_tsvector(array(select 'w' || w from json_array_elements_text(words[n]::json) w) || ('t' || c.tenant))
        from chatkeep.conversation c left join chatkeep.entry e on e.conversation = c.number and e.number = numbers[n] and e.body <> ''
        where c.number = conversations[n] and (numbers[n] = 0 or e.number is not null) and words[n] <> '[]'
        on conflict do nothing;
        delete from chatkeep.search_waiting w where w.conversation = conversations[n] and w.number = numbers[n];
    end loop;
    -- As far as each old one was handed in: a new one may lie far below those.
    for old in
        select o.conversation, o.number, h.number is not null as handed_in
        from chatkeep.old_unindexed(cardinality(conversations)) with ordinality o
        left join unnest(conversations, numbers) h (conversation, number) using (conversation, number)
        order by o.ordinality
    loop
        exit when not old.handed_in;
        reached := old;
    end loop;
    if reached is not null then
        update chatkeep.search_progress set conversation = reached.conversation, number = reached.number;
    end if;
end
$$;

-- The first row says on, off or replaced, and how much lacks; the others are the entries that lack next.
create function chatkeep.index_text(
    epoch text, keep boolean, conversations bigint[], numbers bigint[], places bigint[], words text[], revisions text[], slots int, near bigint,
    most int, counted int
) returns table (
    verdict text, tenant text, id text, conversation bigint, number bigint, entry_id text, role text, body bytea,
    remaining bigint, total bigint, waiting bigint
) language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off
set plan_cache_mode = force_generic_plan as $$
#variable_conflict use_column
begin
    perform chatkeep.refuse_users();
    -- What was put in last may be lost with the server: it lacks again then.
    perform set_config('synchronous_commit', case when keep is null then 'off' else 'on' end, true)
    where keep is null or current_setting('synchronous_commit') = 'off';
    if keep <> chatkeep.has_search_index() then
        perform chatkeep.keep_search_index(epoch, keep);
    end if;
    lock table chatkeep.conversation in row exclusive mode; -- from here on nobody removes the index, or gives the store another epoch
    verdict := case when chatkeep.is_replaced(epoch) then 'replaced' when chatkeep.has_search_index() then 'on' else 'off' end;
    if verdict <> 'on' then
        return next;
        return;
    end if;
    if conversations <> '{}' then
        perform chatkeep.put_words(conversations, numbers, places, words, revisions, slots, near);
    end if;
    select case when exists (select from chatkeep.old_unindexed(1)) then least(p.conversation, p.total) else 0 end, p.total
    into remaining, total from chatkeep.search_progress p;
    select count(*) into waiting from (select from chatkeep.search_waiting limit counted) w;
    return next;
    return query
    with lacking as materialized (
        (select 1 as turn, w.conversation, w.number, coalesce(e.id, c.revision) as id, coalesce(e.role, '') as role,
                coalesce(e.body, c.body) as body
         from chatkeep.search_waiting w
         join chatkeep.conversation c on c.number = w.conversation
         left join chatkeep.entry e on e.conversation = w.conversation and e.number = w.number
         where w.number = 0 or e.number is not null
         order by w.conversation desc, w.number desc limit most)
        union all
        select 2, o.* from chatkeep.old_unindexed(most) o
    )
    select 'lacks', c.tenant, c.id, l.conversation, l.number, l.id, l.role, l.body, null::bigint, null::bigint, null::bigint
    from (select distinct on (conversation, number) * from lacking order by conversation, number, turn) l
    join chatkeep.conversation c on c.number = l.conversation
    order by l.turn, l.conversation desc, l.number desc limit most;
end
$$;

-- An entry that fits, as a hit, if no later one of its conversation does; a row alone, if nothing else is asked for. (`is true`: not by the
-- index of words.)
create function chatkeep.last_fit(asked tsquery, conversation bigint, number bigint, place bigint, rows_alone boolean)
returns table (verdict text, tenant text, id text, hit_number bigint, hit_place bigint) language plpgsql stable
set search_path = pg_catalog, pg_temp as $$
begin
    return query select 'hit'::text, c.tenant, c.id, last_fit.number, last_fit.place
    from chatkeep.conversation c
    where c.number = last_fit.conversation and case when rows_alone then last_fit.number = 0 else not exists (
        select from chatkeep.search_entry l
        where l.conversation = last_fit.conversation and l.number > last_fit.number and (l.words @@ asked) is true
    ) end;
end
$$;

-- Hits below a place, the newest first, then a row that says next, and where to go on, or else end. The newest entries are looked at one by
-- one, and where hardly any of them fits, those that the index of words has: that takes the longer, the more there are.
create function chatkeep.search(epoch text, query text, before bigint, rows_alone boolean, looked_at int, enough int, most int)
returns table (verdict text, tenant text, id text, number bigint, place bigint) language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off
set plan_cache_mode = force_generic_plan as $$
#variable_conflict use_column
declare
    asked   tsquery := query::tsquery;
    one     record;
    reached bigint  := before;
    looked  int     := 0;
    fitting int     := 0;
    hits    int     := 0;
begin
    perform chatkeep.refuse_users();
    lock table chatkeep.conversation in access share mode; -- from here on nobody removes the index
    verdict := case when chatkeep.is_replaced(epoch) then 'replaced' when not chatkeep.has_search_index() then 'end' end;
    if verdict is not null then
        return next;
        return;
    end if;
    for one in
        select s.place, s.conversation, s.number, s.words @@ asked as fits from chatkeep.search_entry s
        where s.place < before order by s.place desc limit looked_at
    loop
        reached := one.place;
        looked := looked + 1;
        continue when not one.fits;
        fitting := fitting + 1;
        return query select * from chatkeep.last_fit(asked, one.conversation, one.number, one.place, rows_alone);
        hits := hits + found::int;
        exit when hits = most;
    end loop;
    if hits < most and fitting < enough and looked = looked_at then
        looked := 0;
        for one in
            with worded as materialized (select s.place, s.conversation, s.number from chatkeep.search_entry s where s.words @@ asked)
            select w.* from worded w where w.place < reached order by w.place desc limit looked_at
        loop
            reached := one.place;
            looked := looked + 1;
            return query select * from chatkeep.last_fit(asked, one.conversation, one.number, one.place, rows_alone);
            hits := hits + found::int;
            exit when hits = most;
        end loop;
    end if;
    verdict := case when hits = most or looked = looked_at then 'next' else 'end' end;
    tenant := null;
    place := reached;
    return next;
end
$$;

update chatkeep.meta set value = '11' where name = 'schema';

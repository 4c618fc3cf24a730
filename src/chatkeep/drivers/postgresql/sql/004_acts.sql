-- A write may take the bodies of entries away, and leave their numbers, ids and roles.
drop function chatkeep.write;
create function chatkeep.write(
    epoch text, tenant text, id text, revision text, born text, replaces text, owner text, claim text, updated_at float8, recent bigint,
    due_at float8, claimed_until float8, head bigint, since bigint, dropped bigint, blanked bigint[], body bytea,
    place int, added int, asked boolean, ids text[], roles text[], bodies bytea[]
) returns chatkeep.answer language plpgsql volatile as $$
#variable_conflict use_column
declare
    answer chatkeep.answer;
    home   bigint;
    last   bigint;
begin
    loop
        -- A row that still has this revision when its lock is granted has not changed since the snapshot, nor has its log.
        if replaces is not null then
            update chatkeep.conversation c
            set revision = write.revision, head = c.head + added, body = write.body, owner = write.owner, updated_at = write.updated_at,
                recent = write.recent, due_at = write.due_at, claim = write.claim, claimed_until = write.claimed_until
            where c.tenant = write.tenant and c.id = write.id and c.revision = replaces and c.born = write.born
              and c.revision <> write.revision
              and (not asked or 0 = (select count(*) from chatkeep.entry e where -e.conversation = -c.number -- not exists could be hashed
                                     and e.id = any (ids[place + 1 : place + added]) and e.id <> ''))
            returning c.number, c.head into home, last;
            exit when found;
        end if;
        select * into answer
        from chatkeep.look(write.tenant, write.id, ids[place + 1 : place + added], since, 1::bigint << 62, 200);
        if found then
            if answer.revision = write.revision then
                answer.verdict := 'found';
                answer.known_ids := null;
                return answer;
            elsif answer.known_ids is not null then
                answer.verdict := 'known';
                return answer;
            elsif answer.revision is distinct from replaces or answer.born <> write.born then
                answer.verdict := 'conflict';
                return answer;
            end if;
        elsif chatkeep.is_replaced(epoch) then
            answer.verdict := 'replaced';
            return answer;
        elsif replaces is not null then
            answer.verdict := 'absent';
            select t.mark into answer.erased_at from chatkeep.tombstone t
            where t.key = chatkeep.tombstone_key(write.tenant, write.id);
            return answer;
        else
            insert into chatkeep.conversation as c
                (tenant, id, born, owner, created_at, recent, due_at, claim, claimed_until, updated_at, head, revision, body)
            values (write.tenant, write.id, write.born, write.owner, write.updated_at, write.recent, write.due_at, write.claim,
                    write.claimed_until, write.updated_at, write.head + added, write.revision, write.body)
            on conflict do nothing returning c.number, c.head into home, last;
            if found then
                answer.erased_at := chatkeep.refused_by_tombstone(write.tenant, write.id, write.updated_at);
                if answer.erased_at is not null then
                    answer.verdict := 'absent';
                    return answer;
                end if;
                exit;
            end if;
        end if;
    end loop;

    if added > 0 then
        insert into chatkeep.entry (conversation, number, id, role, body)
        select home, last - added + n, ids[place + n], roles[place + n], bodies[place + n] from generate_series(1, added) n;
    end if;
    if dropped > 0 then
        delete from chatkeep.entry e where e.conversation = home and e.number <= dropped;
    end if;
    if blanked is not null then
        update chatkeep.entry e set body = '' where e.conversation = home and e.number = any (blanked);
    end if;
    answer.verdict := 'done';
    answer.head := last;
    return answer;
end
$$;

-- An erasure may be of one revision only: wanted, or null for any.
drop function chatkeep.erase;
create function chatkeep.erase(epoch text, tenant text, id text, wanted text, at float8, forget float8)
returns chatkeep.answer language plpgsql volatile as $$
#variable_conflict use_column
declare
    answer chatkeep.answer;
    home   bigint;
    mark   float8;
begin
    loop
        delete from chatkeep.conversation c where c.tenant = erase.tenant and c.id = erase.id
          and (wanted is null or c.revision = wanted)
        returning c.number, greatest(c.updated_at, at) into home, mark;
        exit when found;
        if wanted is not null then
            select * into answer from chatkeep.look(erase.tenant, erase.id, null, 0, 0, 0);
            if found then
                continue when answer.revision = wanted;
                answer.verdict := 'conflict';
                return answer;
            end if;
        end if;
        if chatkeep.is_replaced(epoch) then
            answer.verdict := 'replaced';
            return answer;
        end if;
        -- Nothing to lock: a row that is made and taken away again keeps creations out until the mark is there.
        mark := at;
        insert into chatkeep.conversation
            (tenant, id, born, owner, created_at, recent, claimed_until, updated_at, head, revision, body)
        values (erase.tenant, erase.id, '', '', at, 0, 0, at, 0, '', '') on conflict do nothing;
        if found then
            wanted := null;
        end if;
    end loop;
    delete from chatkeep.entry e where e.conversation = home;
    insert into chatkeep.tombstone as t (key, mark) values (chatkeep.tombstone_key(erase.tenant, erase.id), mark)
    on conflict on constraint tombstone_pkey do update set mark = greatest(t.mark, excluded.mark);
    delete from chatkeep.tombstone t
    where t.key in (select o.key from chatkeep.tombstone o where o.mark < forget limit 100 for update skip locked);
    answer.verdict := 'done';
    return answer;
end
$$;

-- Everything that is waiting, sorted by key; it compares the epoch also where the rows are there. texts: kind, tenant, id, revision,
-- born, replaces, owner, claim of each act; numbers: updated_at, recent, due_at, claimed_until, head, since, drop, added, asked;
-- rows: new bodies; ids, roles, bodies: all entries, one behind the other; blanks: of each act, the numbers of the entries that lose
-- their bodies, as an array's text, or null.
create function chatkeep.commit_acts(
    epoch text, texts text[], numbers float8[], rows bytea[], ids text[], roles text[], bodies bytea[], blanks text[]
) returns setof chatkeep.answer language plpgsql volatile
set enable_seqscan = off set plan_cache_mode = force_generic_plan as $$
declare
    t     int;
    n     int;
    place int := 0;
    refusal chatkeep.answer;
begin
    -- For this transaction: what chatkeep answers is durable, whatever the role or the database prefers.
    if current_setting('synchronous_commit') = 'off' then
        perform set_config('synchronous_commit', 'on', true);
    end if;
    -- Whoever gives the store a new epoch under a lock that excludes this one has waited for every act under the old one, and
    -- none comes after. An expression has a snapshot of its own, taken after the lock.
    lock table chatkeep.conversation in row exclusive mode;
    if chatkeep.is_replaced(epoch) then
        refusal.verdict := 'replaced';
        return query select (refusal).* from generate_series(1, cardinality(rows));
        return;
    end if;
    for act in 0 .. cardinality(rows) - 1 loop
        t := act * 8;
        n := act * 9;
        case texts[t + 1]
            when 'append' then
                return next chatkeep.append(
                    epoch, texts[t + 2], texts[t + 3], texts[t + 4], texts[t + 7], texts[t + 8],
                    numbers[n + 1], numbers[n + 2]::bigint, numbers[n + 3], numbers[n + 4], numbers[n + 6]::bigint,
                    place, numbers[n + 8]::int, numbers[n + 9] > 0, ids, roles, bodies);
            when 'write' then
                return next chatkeep.write(
                    epoch, texts[t + 2], texts[t + 3], texts[t + 4], texts[t + 5], texts[t + 6], texts[t + 7], texts[t + 8],
                    numbers[n + 1], numbers[n + 2]::bigint, numbers[n + 3], numbers[n + 4], numbers[n + 5]::bigint,
                    numbers[n + 6]::bigint, numbers[n + 7]::bigint, blanks[act + 1]::bigint[], rows[act + 1],
                    place, numbers[n + 8]::int, numbers[n + 9] > 0, ids, roles, bodies);
            else
                return next chatkeep.erase(epoch, texts[t + 2], texts[t + 3], texts[t + 6], numbers[n + 1], numbers[n + 6]);
        end case;
        place := place + numbers[n + 8]::int;
    end loop;
end
$$;

-- What an instance of the version before calls while it is still running.
create or replace function chatkeep.commit_acts(
    epoch text, texts text[], numbers float8[], rows bytea[], ids text[], roles text[], bodies bytea[]
) returns setof chatkeep.answer language sql volatile as $$
    select * from chatkeep.commit_acts(epoch, texts, numbers, rows, ids, roles, bodies, array[]::text[])
$$;

-- The entries that have one of these ids, of one instant.
create function chatkeep.pick_entries(epoch text, tenant text, id text, asked text[], most bigint)
returns chatkeep.answer language plpgsql stable
set enable_seqscan = off set plan_cache_mode = force_generic_plan as $$
#variable_conflict use_column
declare
    answer chatkeep.answer;
    home   bigint;
begin
    select c.number into home from chatkeep.conversation c where c.tenant = pick_entries.tenant and c.id = pick_entries.id;
    if not found then
        answer.verdict := case when chatkeep.is_replaced(epoch) then 'replaced' else 'absent' end;
        return answer;
    end if;
    select array_agg(p.number), array_agg(p.id), array_agg(p.role), array_agg(p.body)
    into answer.numbers, answer.ids, answer.roles, answer.bodies
    from (
        select e.number, e.id, e.role, e.body from chatkeep.entry e
        where -e.conversation = -home and e.id = any (asked) and e.id <> '' order by e.number limit most
    ) p;
    answer.verdict := 'found';
    return answer;
end
$$;

-- A page of the index `recent`, behind the row that was last shown. The index has the step, and a step is put in order here: an
-- index on updated_at would move with every turn.
create function chatkeep.scan_recent(
    epoch text, within text, last_tenant text, last_id text, last_recent bigint, last_updated_at float8, most bigint
) returns setof chatkeep.conversation language plpgsql stable
set enable_seqscan = off set plan_cache_mode = force_generic_plan as $$
#variable_conflict use_column
begin
    if chatkeep.is_replaced(epoch) then
        return query select (null::chatkeep.conversation).*;
    elsif within is null then
        return query select c.* from chatkeep.conversation c
            where c.recent <= last_recent
              and (c.recent < last_recent or c.updated_at < last_updated_at
                   or (c.updated_at = last_updated_at and (c.tenant, c.id) > (last_tenant, last_id)))
            order by c.recent desc, c.updated_at desc, c.tenant, c.id limit most;
    else
        return query select c.* from chatkeep.conversation c
            where c.tenant || '' = within and c.recent <= last_recent
              and (c.recent < last_recent or c.updated_at < last_updated_at
                   or (c.updated_at = last_updated_at and c.id > last_id))
            order by c.recent desc, c.updated_at desc, c.id limit most;
    end if;
end
$$;

-- What is due at once has the due time 0, and is shown as due since it was changed.
create or replace view chatkeep.conversations as
select c.tenant, c.id, nullif(c.owner, '') as owner,
       chatkeep.state(c.body) as state,
       case when chatkeep.json(c.body) is not null then coalesce(chatkeep.whole(chatkeep.json(c.body) -> 'session'), 0) end as session,
       c.head as messages,
       (select count(*) from chatkeep.entry e
        where e.conversation = c.number and e.role in ('u', 'e')
          and e.number > coalesce(chatkeep.whole(chatkeep.json(c.body) -> 'cursor'), 0)) as unread,
       chatkeep.moment(c.created_at) as created_at, chatkeep.moment(c.updated_at) as updated_at,
       case when c.due_at is not null then chatkeep.moment(greatest(c.due_at, c.updated_at)) end as due_at,
       chatkeep.json(c.body) is null and c.body <> '' as damaged
from chatkeep.conversation c
where left(c.tenant, 1) <> '~';

update chatkeep.meta set value = '4' where name = 'schema';

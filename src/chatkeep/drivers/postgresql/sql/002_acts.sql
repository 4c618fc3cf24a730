-- The verbs. One statement runs one function over everything that is waiting, so a verb is one round trip and one commit.
--
-- READ COMMITTED gives each statement inside a volatile function a snapshot of its own. So: lock the row first, look
-- second, in a statement of its own; or change a row only where it still has the revision that was seen. Keys come
-- sorted, so that two batches never lock crosswise. A refusal looks at row and log in one statement, of one instant.
-- Plans are made without statistics: a table that was small a minute ago must not be walked.

create type chatkeep.answer as (
    verdict       text, -- done, found, known (done before, or Duplicate), conflict, erased, absent, replaced
    revision      text,
    born          text,
    head          bigint,
    body          bytea,
    owner         text,
    updated_at    float8,
    due_at        float8,
    claim         text,
    claimed_until float8,
    erased_at     float8,
    known_ids     text[],
    known_numbers bigint[],
    numbers       bigint[], -- the entries asked for, as four columns
    ids           text[],
    roles         text[],
    bodies        bytea[]
);

-- A tombstone must not keep the name it erased.
create function chatkeep.tombstone_key(tenant text, id text) returns bytea language sql immutable as $$
    select sha256(convert_to(length(tenant) || ':' || tenant || id, 'UTF8'))
$$;

create function chatkeep.is_replaced(epoch text) returns boolean language plpgsql stable as $$
begin
    return not exists (select from chatkeep.meta m where m.name = 'epoch' and m.value = is_replaced.epoch);
end
$$;

-- Row, known ids and some entries, of one instant: those above first and below before, or else the last most below before.
create function chatkeep.look(tenant text, id text, asked text[], first bigint, before bigint, most bigint)
returns setof chatkeep.answer language sql stable as $$
    select 'found'::text, c.revision, c.born, c.head, c.body, c.owner, c.updated_at, c.due_at, c.claim, c.claimed_until, c.erased_at,
           known.ids, known.numbers, log.numbers, log.ids, log.roles, log.bodies
    from chatkeep.conversation c
    cross join lateral (
        select array_agg(e.id) as ids, array_agg(e.number) as numbers
        from chatkeep.entry e where -e.conversation = -c.number and e.id = any (look.asked) and e.id <> ''
    ) known
    cross join lateral (
        select array_agg(p.number) as numbers, array_agg(p.id) as ids, array_agg(p.role) as roles, array_agg(p.body) as bodies
        from (
            select e.number, e.id, e.role, e.body from chatkeep.entry e
            where e.conversation = c.number and e.number < look.before
              and e.number > coalesce(look.first, least(c.head, look.before - 1) - look.most)
            order by e.number limit look.most
        ) p
    ) log
    where c.tenant = look.tenant and c.id = look.id
$$;

-- What follows a creation: a late one is taken back, any other remembers the erasure that was before it. The answer is
-- that erasure's mark if it refuses. Only with the key in hand is it sure that no erasure is under way.
create function chatkeep.refused_by_tombstone(tenant text, id text, at float8) returns float8 language plpgsql volatile as $$
#variable_conflict use_column
declare
    erased float8;
begin
    select t.mark into erased from chatkeep.tombstone t
    where t.key = chatkeep.tombstone_key(refused_by_tombstone.tenant, refused_by_tombstone.id);
    if erased >= at then
        delete from chatkeep.conversation c where c.tenant = refused_by_tombstone.tenant and c.id = refused_by_tombstone.id;
        return erased;
    elsif erased is not null then
        update chatkeep.conversation c set erased_at = erased
        where c.tenant = refused_by_tombstone.tenant and c.id = refused_by_tombstone.id;
    end if;
    return null;
end
$$;

create function chatkeep.append(
    epoch text, tenant text, id text, revision text, owner text, claim text, updated_at float8, recent bigint, due_at float8,
    claimed_until float8, tail bigint, place int, added int, asked boolean, ids text[], roles text[], bodies bytea[]
) returns chatkeep.answer language plpgsql volatile as $$
#variable_conflict use_column
declare
    answer   chatkeep.answer;
    home     bigint;
    last     bigint;
    seen     text;
    erased   float8;
    known    text[];
    known_at bigint[];
begin
    loop
        select c.number, c.head, c.revision, c.erased_at into home, last, seen, erased
        from chatkeep.conversation c where c.tenant = append.tenant and c.id = append.id for no key update;
        exit when found;
        if chatkeep.is_replaced(epoch) then
            answer.verdict := 'replaced';
            return answer;
        end if;
        insert into chatkeep.conversation as c
            (tenant, id, born, owner, created_at, recent, due_at, claim, claimed_until, updated_at, head, revision, body)
        values (append.tenant, append.id, append.revision, append.owner, append.updated_at, append.recent, append.due_at, append.claim,
                append.claimed_until, append.updated_at, added, append.revision, '')
        on conflict do nothing returning c.number into home;
        if found then
            answer.erased_at := chatkeep.refused_by_tombstone(append.tenant, append.id, append.updated_at);
            if answer.erased_at is not null then
                answer.verdict := 'erased';
                return answer;
            end if;
            insert into chatkeep.entry (conversation, number, id, role, body)
            select home, n, ids[place + n], roles[place + n], bodies[place + n] from generate_series(1, added) n;
            select * into answer from chatkeep.look(append.tenant, append.id, null, null, added + 1, tail);
            answer.verdict := 'done';
            return answer;
        end if;
    end loop;

    if erased >= append.updated_at then
        select * into answer from chatkeep.look(append.tenant, append.id, null, 0, 0, 0);
        answer.verdict := 'erased';
        return answer;
    end if;
    if asked then
        select array_agg(e.id), array_agg(e.number) into known, known_at
        from chatkeep.entry e where -e.conversation = -home and e.id = any (ids[place + 1 : place + added]) and e.id <> '';
    end if;
    if seen <> append.revision and coalesce(cardinality(known), 0) < added then
        update chatkeep.conversation c
        set revision = append.revision, head = c.head + added - coalesce(cardinality(known), 0), updated_at = append.updated_at,
            recent = append.recent, due_at = least(c.due_at, append.due_at), claim = coalesce(c.claim, append.claim),
            claimed_until = case when c.claim is null then append.claimed_until else c.claimed_until end
        where c.tenant = append.tenant and c.id = append.id;
        insert into chatkeep.entry (conversation, number, id, role, body)
        select home, last + row_number() over (), ids[place + n], roles[place + n], bodies[place + n]
        from generate_series(1, added) n where known is null or ids[place + n] <> all (known);
    end if;
    select * into answer from chatkeep.look(append.tenant, append.id, null, null, 1::bigint << 62, tail);
    answer.verdict := 'done';
    answer.known_ids := known;
    answer.known_numbers := known_at;
    return answer;
end
$$;

create function chatkeep.write(
    epoch text, tenant text, id text, revision text, born text, replaces text, owner text, claim text, updated_at float8, recent bigint,
    due_at float8, claimed_until float8, head bigint, since bigint, dropped bigint, body bytea,
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
    answer.verdict := 'done';
    answer.head := last;
    return answer;
end
$$;

create function chatkeep.erase(epoch text, tenant text, id text, at float8, forget float8)
returns chatkeep.answer language plpgsql volatile as $$
#variable_conflict use_column
declare
    answer chatkeep.answer;
    home   bigint;
    mark   float8;
begin
    loop
        delete from chatkeep.conversation c where c.tenant = erase.tenant and c.id = erase.id
        returning c.number, greatest(c.updated_at, at) into home, mark;
        exit when found;
        if chatkeep.is_replaced(epoch) then
            answer.verdict := 'replaced';
            return answer;
        end if;
        -- Nothing to lock: a row that is made and taken away again keeps creations out until the mark is there.
        mark := at;
        insert into chatkeep.conversation
            (tenant, id, born, owner, created_at, recent, claimed_until, updated_at, head, revision, body)
        values (erase.tenant, erase.id, '', '', at, 0, 0, at, 0, '', '') on conflict do nothing;
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

-- Everything that is waiting, sorted by key. texts: kind, tenant, id, revision, born, replaces, owner, claim of each act; numbers:
-- updated_at, recent, due_at, claimed_until, head, since, drop, added, asked; rows: new bodies; the rest: all entries, one behind
-- the other.
create function chatkeep.commit_acts(
    epoch text, texts text[], numbers float8[], rows bytea[], ids text[], roles text[], bodies bytea[]
) returns setof chatkeep.answer language plpgsql volatile
set enable_seqscan = off set plan_cache_mode = force_generic_plan as $$
declare
    t     int;
    n     int;
    place int := 0;
begin
    -- For this transaction: what chatkeep answers is durable, whatever the role or the database prefers.
    if current_setting('synchronous_commit') = 'off' then
        perform set_config('synchronous_commit', 'on', true);
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
                    numbers[n + 6]::bigint, numbers[n + 7]::bigint, rows[act + 1],
                    place, numbers[n + 8]::int, numbers[n + 9] > 0, ids, roles, bodies);
            else
                return next chatkeep.erase(epoch, texts[t + 2], texts[t + 3], numbers[n + 1], numbers[n + 6]);
        end case;
        place := place + numbers[n + 8]::int;
    end loop;
end
$$;

-- Reads, all of one instant. bounds: first, before, most of each (see look).
create function chatkeep.read_logs(epoch text, tenants text[], names text[], bounds bigint[])
returns setof chatkeep.answer language plpgsql stable
set enable_seqscan = off set plan_cache_mode = force_generic_plan as $$
declare
    answer chatkeep.answer;
begin
    for n in 1 .. cardinality(tenants) loop
        select * into answer
        from chatkeep.look(tenants[n], names[n], null, bounds[3 * n - 2], bounds[3 * n - 1], bounds[3 * n]);
        if not found then
            answer.verdict := case when chatkeep.is_replaced(epoch) then 'replaced' else 'absent' end;
        end if;
        return next answer;
    end loop;
end
$$;

-- A page of an index, behind the row that was last shown; within: one tenant, or null for all. One row of nulls: replaced.
create function chatkeep.scan(
    epoch text, index text, within text, owner text, until float8,
    last_tenant text, last_id text, last_wake float8, last_recent bigint, most bigint
) returns setof chatkeep.conversation language plpgsql stable
set enable_seqscan = off set plan_cache_mode = force_generic_plan as $$
#variable_conflict use_column
begin
    if chatkeep.is_replaced(epoch) then
        return query select (null::chatkeep.conversation).*;
    elsif index = 'due' then
        return query select c.* from chatkeep.conversation c
            where c.wake is not null and c.wake <= until and (c.wake, c.tenant, c.id) > (last_wake, last_tenant, last_id)
              and (within is null or c.tenant = within)
            order by c.wake, c.tenant, c.id limit most;
    elsif index = 'key' and within is null then
        return query select c.* from chatkeep.conversation c
            where (c.tenant, c.id) > (last_tenant, last_id) order by c.tenant, c.id limit most;
    elsif index = 'key' then
        return query select c.* from chatkeep.conversation c
            where c.tenant = within and c.id > last_id order by c.id limit most;
    elsif index = 'owner' and within is null then
        return query select c.* from chatkeep.conversation c
            where c.owner = scan.owner and c.owner <> '' and (c.tenant, c.id) > (last_tenant, last_id)
            order by c.tenant, c.id limit most;
    elsif index = 'owner' then
        return query select c.* from chatkeep.conversation c
            where c.owner = scan.owner and c.owner <> '' and c.tenant = within and c.id > last_id order by c.id limit most;
    elsif within is null then
        return query select c.* from chatkeep.conversation c
            where c.recent <= last_recent and (c.recent < last_recent or (c.tenant, c.id) > (last_tenant, last_id))
            order by c.recent desc, c.tenant, c.id limit most;
    else
        return query select c.* from chatkeep.conversation c
            where c.tenant || '' = within and c.recent <= last_recent and (c.recent < last_recent or c.id > last_id)
            order by c.recent desc, c.id limit most;
    end if;
end
$$;

update chatkeep.meta set value = '2' where name = 'schema';

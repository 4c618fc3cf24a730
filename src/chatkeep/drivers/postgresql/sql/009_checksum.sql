-- The checksum of a conversation covers what a person can see of it: title, messages and state. It was that of the whole record, which leases,
-- deliveries and marks move as well, so that a save was refused for nothing that anybody had seen.

-- As it was told before; what devices have kept of it is still accepted.
create function chatkeep.checksum_before(tenant text, id text, born text, head bigint, body bytea) returns text language sql immutable
set search_path = pg_catalog, pg_temp as $$
    select left(encode(sha256(convert_to(born || ':' || head || ':' || case body when ''
        then substr(convert_from(chatkeep.sealed(tenant, id, '{"crc":"', '"format":1}'), 'UTF8'), 9, 8)
        else substr(convert_from(body, 'UTF8'), 9, 8) end, 'UTF8')), 'hex'), 24)
$$;

create or replace function chatkeep.checksum_of(tenant text, id text, born text, head bigint, body bytea) returns text language sql immutable
set search_path = pg_catalog, pg_temp as $$
    select left(encode(sha256(convert_to(
        format('%s:%s:%s:%s:%s:', born, head - coalesce((record ->> 'notes')::bigint, 0), coalesce(record ->> 'redactions', '0'), length(coalesce(record ->> 'title', '')),
               coalesce(record ->> 'title', ''))
        || coalesce(nullif((record -> 'state')::text, 'null'), ''), 'UTF8')), 'hex'), 24)
    from (select case when chatkeep.json(body) is not null then convert_from(body, 'UTF8')::json end as record) held
$$;

-- Saves a title and messages into a conversation of a user, creating it where there is none. Messages go by their ids: what the log has
-- stays as it is, and nothing that is saved is answered. A title that was written in ignorance of a newer one (p_version or p_checksum
-- tell what was known), and a message that says something else than the log under its id, are conflicts: the answer names them, and the
-- log keeps what gave way. p_force_overwrite takes the title as it is given.
create or replace function chatkeep.save_conversation(
    p_user_id text, p_conversation_id text, p_title text default null, p_messages jsonb default '[]', p_force_overwrite boolean default false,
    p_version bigint default null, p_checksum text default null
) returns jsonb language plpgsql volatile security definer set search_path = pg_catalog, pg_temp as $$
declare
    epoch    text := chatkeep.begin_act();
    v_tenant text := chatkeep.whose_tenant();
    now      float8 := extract(epoch from clock_timestamp());
    owners   text[];
    held     chatkeep.conversation;
    answer   chatkeep.answer;
    record   json;
    titled   json;
    wins     boolean;
    cursor   bigint;
    edits    bigint;
    head     bigint;
    user_id  text;
    changes  text[];
    delivery text;
    given    chatkeep.given_message[];
    differ   text[]; -- ids of messages that say something else than the log
    conflict text[];
    revision text;
    asked    record;
    body     bytea;
    ids      text[];
    roles    text[];
    bodies   bytea[];
    added    text[];
begin
    perform chatkeep.refuse_others(p_user_id);
    perform chatkeep.refuse_key(p_conversation_id);
    if length(p_title) > 1000 then
        raise invalid_parameter_value using message = 'p_title has at most 1000 characters; nothing was touched.';
    end if;
    user_id := chatkeep.acting_user(v_tenant, p_user_id);
    owners := chatkeep.find_owners(v_tenant, p_user_id);
    given := array(select m from chatkeep.read_messages(p_messages, now) m);
    loop
        held := chatkeep.hold_conversation(v_tenant, p_conversation_id, owners);
        record := case when coalesce(held.body, '') = '' then '{}' else convert_from(held.body, 'UTF8') end;
        head := coalesce(held.head, 0);
        edits := coalesce((record ->> 'edits')::bigint, 0);
        cursor := coalesce((record ->> 'cursor')::bigint, 0);
        differ := array[]::text[];
        ids := array[]::text[];
        roles := array[]::text[];
        bodies := array[]::bytea[];
        changes := array[]::text[];
        wins := true;

        if p_title is not null and p_title <> coalesce(record ->> 'title', '') then
            titled := coalesce(record -> 'titled', '[0.0,"",0]');
            wins := p_force_overwrite or (titled ->> 0)::float8 = 0 or case
                when p_version is not null then p_version >= (titled ->> 2)::bigint
                when p_checksum is not null
                    then p_checksum in (chatkeep.checksum_of(held.tenant, held.id, held.born, held.head, held.body),
                                        chatkeep.checksum_before(held.tenant, held.id, held.born, held.head, held.body))
                else (now, 'sql') >= ((titled ->> 0)::float8, titled ->> 1) end;
            if wins then
                changes := array[
                    format('"title":%s', coalesce(to_json(nullif(p_title, ''))::text, 'null')),
                    format('"titled":[%s,"sql",%s]', chatkeep.seconds(greatest(now, (titled ->> 0)::float8)), head + edits + 1)];
            end if;
        end if;

        for asked in
            select m.*, e.role as there, chatkeep.json(e.body) -> 2 as said, e.body = '' as redacted, e.id is not null as known
            from unnest(given) m left join chatkeep.entry e
                on e.id = m.id and -e.conversation = -held.number and held.number is not null
            order by m.place
        loop
            if not asked.known then
                ids := ids || asked.id;
                roles := roles || asked.role;
                bodies := bodies || chatkeep.entry_body(v_tenant, p_conversation_id, asked.at, asked.content, asked.metadata, '~');
            elsif not asked.redacted and (asked.there <> asked.role or asked.said is distinct from asked.spoken) then
                differ := differ || asked.id;
            end if;
        end loop;
        added := ids;
        conflict := array_remove(array[case when not wins then 'title' end], null) || differ;

        -- What gave way is kept in the log, once however often it is asked for.
        for asked in
            select '~conflict:sql:' || left(encode(sha256(convert_to(jsonb_build_array(lost.about, lost.id, lost.value)::text, 'UTF8')), 'hex'), 24) as id,
                   chatkeep.entry_body(v_tenant, p_conversation_id, now, to_json(lost.value::text)::text,
                       format('{"kind":"conflict","about":"%s","slot":"","path":%s,"at":%s,"by":"sql"}', lost.about,
                              case lost.id when '' then '[]' else json_build_array(lost.id)::text end, chatkeep.seconds(lost.at)), '') as body
            from (
                select 0 as place, 'title' as about, '' as id, to_jsonb(p_title) as value, now as at where not wins
                union all
                select m.place, 'message', m.id, m.spoken, m.at from unnest(given) m where m.id = any (differ)
            ) lost
            order by lost.place
        loop
            continue when held.number is not null
                and exists (select from chatkeep.entry e where e.id = asked.id and -e.conversation = -held.number);
            ids := ids || asked.id;
            roles := roles || 's'::text;
            bodies := bodies || asked.body;
        end loop;

        if ids = '{}' and held.number is null then
            ids := array['~begun:' || gen_random_uuid()];
            roles := array['s'];
            bodies := array[chatkeep.sealed(v_tenant, p_conversation_id, '["', round(now * 1000)::bigint || ',"",0,0,{"kind":"begun"}]')];
        elsif ids = '{}' and changes = '{}' then
            return chatkeep.saved(held.tenant, held.id, held.born, held.head, held.body, added, conflict);
        elsif ids = '{}' then
            changes := changes || format('"edits":%s', edits + 1);
        end if;
        -- Nothing that comes here waits for an answer; what waits before it goes on waiting.
        if not exists (
            select from chatkeep.entry e where e.conversation = held.number and e.number > cursor and e.body <> ''
              and (e.role in ('u', 'e') and chatkeep.json(e.body) ->> 6 is distinct from '~'
                   or e.role in ('a', 'o') and record -> 'delivery' is null and chatkeep.json(e.body) ->> 6 is distinct from '~')
        ) then
            changes := changes || format('"cursor":%s', head + cardinality(ids));
            delivery := record ->> 'delivery';
            if delivery is not null and (delivery::json ->> 0)::bigint = head then
                changes := changes || format('"delivery":%s', regexp_replace(delivery, '^\[\s*\d+', '[' || head + cardinality(ids)));
            end if;
        end if;
        if 's' = any (roles) then
            changes := changes || format('"notes":%s', coalesce((record ->> 'notes')::bigint, 0) + cardinality(array_positions(roles, 's')));
        end if;
        revision := left(replace(gen_random_uuid()::text, '-', ''), 16);
        body := chatkeep.sealed(v_tenant, p_conversation_id, '{"crc":"',
                                chatkeep.change_record(record, ('{' || array_to_string(changes, ',') || '}')::json));
        answer := chatkeep.write(
            epoch, v_tenant, p_conversation_id, revision, coalesce(held.born, revision), held.revision,
            coalesce(held.owner, user_id), held.claim, greatest(now, held.updated_at),
            chatkeep.step_of(greatest(now, held.updated_at)), 0, coalesce(held.claimed_until, 0), 0, 0, 0, null,
            body, 0, cardinality(ids), true, ids, roles, bodies);
        if answer.verdict = 'done' then
            perform chatkeep.announce_work();
            return chatkeep.saved(v_tenant, p_conversation_id, coalesce(held.born, revision), answer.head, body, added, conflict);
        end if;
        -- Somebody has created it meanwhile, or it was erased a moment ago by whose clock is ahead.
        now := greatest(extract(epoch from clock_timestamp()), answer.erased_at + 0.001);
    end loop;
end
$$;

update chatkeep.meta set value = '9' where name = 'schema';

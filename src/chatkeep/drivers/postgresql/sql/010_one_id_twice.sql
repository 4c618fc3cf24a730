-- Of two messages with one id in one save, the second one was passed over without a word. If it says something else it is a conflict now, as
-- beside what the log has. Members that are null count as absent, as in the library.

-- The messages of a save, in the order given. Refuses what the library refuses.
create or replace function chatkeep.read_messages(p_messages jsonb, now float8) returns setof chatkeep.given_message language plpgsql stable
set search_path = pg_catalog, pg_temp as $$
declare
    given   chatkeep.given_message;
    m       jsonb;
    ordinal bigint;
    what    text;
    wrong   text;
begin
    if jsonb_typeof(p_messages) <> 'array' then
        raise invalid_parameter_value using message = 'p_messages is a JSON array of messages; nothing was touched.';
    end if;
    for m, ordinal in select value, ordinality from jsonb_array_elements(p_messages) with ordinality loop
        what := 'Message ' || ordinal;
        if jsonb_typeof(m) <> 'object' then
            raise invalid_parameter_value using message = what || ' is no JSON object; nothing was touched.';
        end if;
        what := coalesce('The message ' || quote_literal(left(m ->> 'id', 60)), what);
        wrong := case
            when exists (select from jsonb_object_keys(m) name where name not in ('id', 'role', 'content', 'created_at', 'metadata'))
                then 'has a member that is none of id, role, content, created_at and metadata'
            when jsonb_typeof(m -> 'id') is distinct from 'string' or octet_length(m ->> 'id') not between 1 and 512
                then 'needs an id, which is text of 1 to 512 bytes'
            when left(m ->> 'id', 1) = '~' then 'has an id that starts with ~, as chatkeep''s own do'
            when coalesce(m ->> 'role', 'user') not in ('user', 'assistant', 'operator') then 'has none of the roles user, assistant and operator'
            when not coalesce(jsonb_typeof(m -> 'content') = 'string' or jsonb_typeof(m -> 'content') = 'array'
                 and not jsonb_path_exists(m -> 'content', 'strict $[*] ? (@.type() != "object")'), false)
                then 'needs a content, which is text or a list of JSON objects'
            when coalesce(jsonb_typeof(m -> 'created_at'), 'null') not in ('number', 'null') then 'has a created_at that is no number of seconds since 1970'
            when coalesce(jsonb_typeof(m -> 'metadata'), 'null') not in ('object', 'null') then 'has metadata that are no JSON object'
        end;
        if wrong is not null then
            raise invalid_parameter_value using message = format('%s %s; nothing was touched.', what, wrong);
        end if;
        given := (ordinal, m ->> 'id', left(coalesce(m ->> 'role', 'user'), 1), chatkeep.storable(m -> 'content', what), m -> 'content',
                  chatkeep.storable(coalesce(nullif(m -> 'metadata', 'null'), '{}'), what),
                  greatest(0, least(now, coalesce(nullif(m -> 'created_at', 'null')::text::numeric, now::numeric))));
        if octet_length(given.content) + octet_length(given.metadata) > 262144 - 64 then
            raise invalid_parameter_value using message = what || ' takes more than 256 KB; nothing was touched.',
                hint = 'Refer to attachments by URL.';
        end if;
        return next given;
    end loop;
end
$$;

-- Saves a title and messages into a conversation of a user, creating it where there is none. Messages go by their ids: what the log has
-- stays as it is, or else the first one with an id, and nothing that is saved is answered. A title that was written in ignorance of a newer one (p_version or p_checksum
-- tell what was known), and a message that says something else under its id, are conflicts: the answer names them, and the
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
    differ   bigint[]; -- places of messages that say something else than what has their id
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
        differ := array[]::bigint[];
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
            select m.*, coalesce(e.role, first_value(m.role) over same) as there, e.id is null and row_number() over same = 1 as added,
                   case when e.id is null then first_value(m.spoken) over same else chatkeep.json(e.body) -> 2 end as said,
                   coalesce(e.body = '', false) as redacted
            from unnest(given) m left join chatkeep.entry e
                on e.id = m.id and -e.conversation = -held.number and held.number is not null
            window same as (partition by m.id order by m.place)
            order by m.place
        loop
            if asked.added then
                ids := ids || asked.id;
                roles := roles || asked.role;
                bodies := bodies || chatkeep.entry_body(v_tenant, p_conversation_id, asked.at, asked.content, asked.metadata, '~');
            elsif not asked.redacted and (asked.there <> asked.role or asked.said is distinct from asked.spoken) then
                differ := differ || asked.place;
            end if;
        end loop;
        added := ids;
        conflict := array_remove(array[case when not wins then 'title' end], null)
            || array(select m.id from unnest(given) m where m.place = any (differ) group by m.id order by min(m.place));

        -- What gave way is kept in the log, once however often it is asked for.
        for asked in
            select '~conflict:sql:' || left(encode(sha256(convert_to(jsonb_build_array(lost.about, lost.id, lost.value)::text, 'UTF8')), 'hex'), 24) as id,
                   chatkeep.entry_body(v_tenant, p_conversation_id, now, to_json(lost.value::text)::text,
                       format('{"kind":"conflict","about":"%s","slot":"","path":%s,"at":%s,"by":"sql"}', lost.about,
                              case lost.id when '' then '[]' else json_build_array(lost.id)::text end, chatkeep.seconds(lost.at)), '') as body
            from (
                select 0 as place, 'title' as about, '' as id, to_jsonb(p_title) as value, now as at where not wins
                union all
                select m.place, 'message', m.id, m.spoken, m.at from unnest(given) m where m.place = any (differ)
            ) lost
            order by lost.place
        loop
            continue when asked.id = any (ids) or held.number is not null
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

update chatkeep.meta set value = '10' where name = 'schema';

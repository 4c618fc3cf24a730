-- What users of the application may do with SQL alone: save and load their own conversations, under their own database role or behind
-- PostgREST or Supabase. Everything is written through the function of the verb, so that locks, numbers, ids and checksums are as ever.

-- Who asks. What a gateway says in the claims of a token comes first; a service that connects by itself says it in settings.
create function chatkeep.claims() returns jsonb language sql stable set search_path = pg_catalog, pg_temp as $$
    select nullif(current_setting('request.jwt.claims', true), '')::jsonb
$$;

create function chatkeep.who() returns text language sql stable set search_path = pg_catalog, pg_temp as $$
    select case when chatkeep.claims() is null then nullif(current_setting('chatkeep' || '.user', true), '')
                else nullif(chatkeep.claims() ->> 'sub', '') end
$$;

-- The tenant comes from the same place, and never from an argument: users must not choose it. (What users of Supabase may
-- change themselves is in user_metadata, which is not looked at.)
create function chatkeep.whose_tenant() returns text language sql stable set search_path = pg_catalog, pg_temp as $$
    select coalesce(case when chatkeep.claims() is null then current_setting('chatkeep' || '.tenant', true)
                         else coalesce(chatkeep.claims() ->> 'tenant', chatkeep.claims() -> 'app_metadata' ->> 'tenant') end, '')
$$;

-- CRC-32 as zlib has it. From version 18 on the server has one of its own, which is some hundred times as fast.
create function chatkeep.crc_steps() returns bigint[] language sql immutable set search_path = pg_catalog, pg_temp as $$
    with recursive step (byte, bit, crc) as (
        select n, 0, n::bigint from generate_series(0, 255) n
        union all
        select byte, bit + 1, case when crc & 1 = 1 then (crc >> 1) # 3988292384 else crc >> 1 end from step where bit < 8
    )
    select array_agg(crc order by byte) from step where bit = 8
$$;

create function chatkeep.crc_in_steps(body bytea) returns bigint language plpgsql immutable strict
set search_path = pg_catalog, pg_temp as $$
declare
    steps bigint[] := chatkeep.crc_steps();
    crc   bigint := 4294967295;
begin
    for place in 0 .. length(body) - 1 loop
        crc := steps[((crc # get_byte(body, place)) & 255) + 1] # (crc >> 8);
    end loop;
    return crc # 4294967295;
end
$$;

do $do$
begin
    if to_regprocedure('pg_catalog.crc32(bytea)') is not null then
        create function chatkeep.crc(body bytea) returns bigint language sql immutable strict as 'select pg_catalog.crc32(body)';
    else
        create function chatkeep.crc(body bytea) returns bigint language sql immutable strict as 'select chatkeep.crc_in_steps(body)';
    end if;
end
$do$;

-- What is stored of a record or an entry: its checksum, which is bound to the conversation's key, and the rest.
create function chatkeep.sealed(tenant text, id text, opening text, rest text) returns bytea language sql immutable
set search_path = pg_catalog, pg_temp as $$
    select convert_to(opening || lpad(to_hex(chatkeep.crc(convert_to(length(tenant) || ':' || tenant || id || rest, 'UTF8'))), 8, '0')
                      || '",' || rest, 'UTF8')
$$;

-- Whether a role is a service of chatkeep's: it may write the tables themselves. Users are given functions, or views, alone.
create function chatkeep.is_service(role text) returns boolean language sql stable set search_path = pg_catalog, pg_temp as $$
    select has_table_privilege(role, 'chatkeep.conversation', 'update')
$$;

-- The role that called a function of the owner's.
create function chatkeep.caller() returns text language sql stable set search_path = pg_catalog, pg_temp as $$
    select case current_setting('role') when 'none' then session_user::text else current_setting('role') end
$$;

-- Refuses everybody but the user himself, and services that act for nobody in particular.
create function chatkeep.refuse_others(p_user_id text) returns void language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
    if coalesce(p_user_id, '') = '' or octet_length(p_user_id) > 512 then
        raise invalid_parameter_value using message = 'p_user_id names a user in 1 to 512 bytes; nothing was touched.';
    elsif chatkeep.who() is distinct from p_user_id and not (chatkeep.who() is null and chatkeep.is_service(chatkeep.caller())) then
        raise insufficient_privilege using
            message = format('Conversations of %L are for %1$L alone; this is %s. Nothing was touched.', p_user_id,
                             coalesce(quote_literal(chatkeep.who()), 'nobody in particular')),
            hint = 'The user is the member "sub" of the setting request.jwt.claims, or else the setting chatkeep' || '.user.';
    elsif left(chatkeep.whose_tenant(), 1) = '~' then
        raise insufficient_privilege using message = 'Tenants that start with ~ are chatkeep''s own. Nothing was touched.';
    end if;
end
$$;

-- The user that a subject stands for: itself, unless it was claimed. Of accounts that were merged into each other at once the claim
-- that came last does not count.
create function chatkeep.find_user(tenant text, subject text) returns text language plpgsql stable
set search_path = pg_catalog, pg_temp as $$
declare
    names text[]   := array[]::text[];
    times float8[] := array[]::float8[];
    claim jsonb;
    start int;
begin
    loop
        start := array_position(names, subject);
        if start is not null then
            return (select name from unnest(names[start:], times[start:]) as t (name, at) order by at desc, name desc limit 1);
        end if;
        select chatkeep.json(c.body) -> 'state' into claim
        from chatkeep.conversation c where c.tenant = '~people:' || find_user.tenant and c.id = subject;
        if coalesce(claim ->> 'moved_to', '') = '' or cardinality(names) > 32 then
            return subject;
        end if;
        names := names || subject;
        times := times || coalesce((claim ->> 'at')::float8, 0);
        subject := claim ->> 'moved_to';
    end loop;
end
$$;

-- The names under which a user owns conversations: his own, and those that were claimed for him.
create function chatkeep.find_owners(tenant text, subject text) returns text[] language sql stable
set search_path = pg_catalog, pg_temp as $$
    with recursive owner (name) as (
        select chatkeep.find_user(find_owners.tenant, find_owners.subject) collate "C"
        union
        select c.id from owner join chatkeep.conversation c
            on c.owner = owner.name and c.owner <> '' and c.tenant = '~people:' || find_owners.tenant
           and chatkeep.json(c.body) -> 'state' ->> 'moved_to' = owner.name
    )
    select array_agg(name) from owner
$$;

-- The user that writes: who was claimed as a guest has nothing of its own any more.
create function chatkeep.acting_user(tenant text, subject text) returns text language plpgsql stable
set search_path = pg_catalog, pg_temp as $$
declare
    user_id text := chatkeep.find_user(tenant, subject);
begin
    if user_id <> subject and subject like 'guest:%' then
        raise insufficient_privilege using
            message = format('%L was claimed by a user, who has its conversations now. Nothing was touched.', subject);
    end if;
    return user_id;
end
$$;

create function chatkeep.refuse_key(p_conversation_id text) returns void language plpgsql immutable set search_path = pg_catalog, pg_temp as $$
begin
    if coalesce(octet_length(p_conversation_id), 0) not between 1 and 512 then
        raise invalid_parameter_value using message = 'p_conversation_id is text of 1 to 512 bytes; nothing was touched.';
    end if;
end
$$;

create function chatkeep.role_of(letter text) returns text language sql immutable set search_path = pg_catalog, pg_temp as $$
    select case letter when 'u' then 'user' when 'a' then 'assistant' when 'o' then 'operator' when 's' then 'system' when 'e' then 'event'
                       else letter end
$$;

-- The same of whoever asks: nobody learns of others.
create function chatkeep.my_owners() returns text[] language sql stable security definer set search_path = pg_catalog, pg_temp as $$
    select case when chatkeep.who() is null then array[]::text[]
                else chatkeep.find_owners(chatkeep.whose_tenant(), chatkeep.who()) end
$$;

-- The version and the checksum of a conversation, as the library tells them.
create function chatkeep.version_of(head bigint, body bytea) returns bigint language sql immutable
set search_path = pg_catalog, pg_temp as $$
    select head + coalesce(chatkeep.whole(chatkeep.json(body) -> 'edits'), 0)
$$;

create function chatkeep.checksum_of(tenant text, id text, born text, head bigint, body bytea) returns text language sql immutable
set search_path = pg_catalog, pg_temp as $$
    select left(encode(sha256(convert_to(born || ':' || head || ':' || case body when ''
        then substr(convert_from(chatkeep.sealed(tenant, id, '{"crc":"', '"format":1}'), 'UTF8'), 9, 8)
        else substr(convert_from(body, 'UTF8'), 9, 8) end, 'UTF8')), 'hex'), 24)
$$;

-- Seconds since 1970, to the millisecond, in the words of the record.
create function chatkeep.seconds(at float8) returns text language sql immutable set search_path = pg_catalog, pg_temp as $$
    select case when round(at * 1000)::bigint % 1000 = 0 then round(at * 1000)::bigint / 1000 || '.0'
                else trim(trailing '0' from round(at::numeric, 3)::text) end
$$;

-- A record as JSON text: members that are given take the place of those that were there (null: there is no such member any more), and all stand
-- in the library's order. What is not touched stays as it was written, character for character.
create function chatkeep.change_record(record json, changes json) returns text language sql immutable
set search_path = pg_catalog, pg_temp as $$
    with member (name, value, place, given) as (
        select key, value::text, ordinality, 0 from json_each(record) with ordinality where key not in ('crc', 'format')
        union all
        select key, value::text, ordinality, 1 from json_each(changes) with ordinality
    ),
    chosen as (
        select distinct on (name) name, value, place, given from member order by name, given desc
    )
    select '"format":1' || coalesce(string_agg(',' || to_json(name)::text || ':' || value, '' order by
        array_position(array['schema', 'state', 'session', 'since', 'cursor', 'active_at', 'begun', 'raised', 'retry_at', 'off', 'dropped',
                             'oldest_at', 'dead', 'steps', 'reminders', 'delivery', 'deaths', 'alone', 'failed_at', 'redactions',
                             'visitor', 'changes', 'title', 'titled', 'archived', 'pinned', 'seen', 'edits', 'stamps'], name) nulls last,
        place), '') || '}'
    from chosen where value <> 'null'
$$;

-- An entry of the log as it is stored.
create function chatkeep.entry_body(tenant text, id text, at float8, content text, metadata text, channel text) returns bytea
language sql immutable set search_path = pg_catalog, pg_temp as $$
    select chatkeep.sealed(tenant, id, '["', round(at * 1000)::bigint || ',' || content
        || case when metadata = '{}' and channel = '' then '' else ',0,0,' || metadata end
        || case channel when '' then '' else ',' || to_json(channel)::text end || ']')
$$;

-- Compact JSON text of a value. Numbers that a browser would change are refused, as everywhere.
create function chatkeep.storable(value jsonb, what text) returns text language plpgsql immutable
set search_path = pg_catalog, pg_temp as $$
declare
    kept text;
begin
    if jsonb_path_exists(value, 'strict $.** ? (@.type() == "number" && (@ > 9007199254740991 || @ < -9007199254740991))') then
        raise invalid_parameter_value using
            message = format('%s holds a number that a browser would change; nothing was touched.', what), hint = 'Keep it as text.';
    end if;
    case jsonb_typeof(value)
        when 'object' then
            select '{' || coalesce(string_agg(to_json(key)::text || ':' || chatkeep.storable(m.value, what), ','), '') || '}' into kept
            from jsonb_each(value) m;
        when 'array' then
            select '[' || coalesce(string_agg(chatkeep.storable(m.value, what), ',' order by place), '') || ']' into kept
            from jsonb_array_elements(value) with ordinality m (value, place);
        else kept := value::text;
    end case;
    return kept;
end
$$;

-- A message of a save: in what is given it stands at this place; content and metadata as they are stored, spoken: the content to compare.
create type chatkeep.given_message as (place bigint, id text, role text, content text, spoken jsonb, metadata text, at float8);

-- The messages of a save, in the order given; the first one under each id. Refuses what the library refuses.
create function chatkeep.read_messages(p_messages jsonb, now float8) returns setof chatkeep.given_message language plpgsql stable
set search_path = pg_catalog, pg_temp as $$
declare
    given   chatkeep.given_message;
    m       jsonb;
    ordinal bigint;
    what    text;
    wrong   text;
    seen    text[] := array[]::text[];
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
            when coalesce(jsonb_typeof(m -> 'metadata'), 'object') <> 'object' then 'has metadata that are no JSON object'
        end;
        if wrong is not null then
            raise invalid_parameter_value using message = format('%s %s; nothing was touched.', what, wrong);
        end if;
        continue when m ->> 'id' = any (seen);
        seen := seen || (m ->> 'id');
        given := (ordinal, m ->> 'id', left(coalesce(m ->> 'role', 'user'), 1), chatkeep.storable(m -> 'content', what), m -> 'content',
                  chatkeep.storable(coalesce(m -> 'metadata', '{}'), what),
                  greatest(0, least(now, coalesce(nullif(m -> 'created_at', 'null')::text::numeric, now::numeric))));
        if octet_length(given.content) + octet_length(given.metadata) > 262144 - 64 then
            raise invalid_parameter_value using message = what || ' takes more than 256 KB; nothing was touched.',
                hint = 'Refer to attachments by URL.';
        end if;
        return next given;
    end loop;
end
$$;

-- Wakes instances: what was written is due at once, so that one of them looks at it, notes when it is due next and tells the others.
create function chatkeep.announce_work() returns void language sql volatile set search_path = pg_catalog, pg_temp as $$
    select pg_notify(nspname, '!' || '------sq')
    from pg_class c join pg_namespace n on n.oid = c.relnamespace where c.oid = 'chatkeep.conversation'::regclass
$$;

-- The step of the index `recent`.
create function chatkeep.step_of(at float8) returns bigint language sql immutable set search_path = pg_catalog, pg_temp as $$
    select floor(at / 60)::bigint
$$;

-- A conversation as one who may see it has it before him: locked for this transaction, and refused to everybody else.
create function chatkeep.hold_conversation(tenant text, id text, owners text[]) returns chatkeep.conversation language plpgsql volatile
set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
declare
    held chatkeep.conversation;
    text text;
begin
    select c.* into held from chatkeep.conversation c
    where c.tenant = hold_conversation.tenant and c.id = hold_conversation.id for no key update;
    if found and held.owner <> all (owners) then
        raise insufficient_privilege using
            message = format('The conversation %L is somebody else''s. Nothing was touched.', hold_conversation.id);
    elsif found and held.body <> '' then
        text := convert_from(held.body, 'UTF8');
        if chatkeep.json(held.body) is null or held.body <> chatkeep.sealed(held.tenant, held.id, '{"crc":"', substr(text, 19)) then
            raise data_corrupted using message = format('The record of %L is damaged. Nothing was changed.', held.id),
                hint = 'Restore it or erase the conversation.';
        elsif coalesce(chatkeep.whole(chatkeep.json(held.body) -> 'format'), 1) > 1 then
            raise feature_not_supported using message = format('A newer chatkeep has written %L. Nothing was changed.', held.id);
        end if;
    end if;
    return held;
end
$$;

-- The store's epoch, unless its conversations are elsewhere: it was moved, is being filled by a move, or was emptied.
create function chatkeep.epoch_here() returns text language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
    epoch text;
    place text;
begin
    select m.value into epoch from chatkeep.meta m where m.name = 'epoch';
    if epoch like 'moved:%' then
        select chatkeep.json(c.body) ->> 'to' into place from chatkeep.conversation c where c.tenant = '~chatkeep' and c.id = 'move';
        raise object_not_in_prerequisite_state using message = 'This store was moved. Nothing was touched.',
            hint = 'Its conversations are now at ' || coalesce(place, 'another place') || '.';
    elsif epoch like 'filling:%' then
        raise object_not_in_prerequisite_state using message = 'This store is being filled by "chatkeep move". Nothing was touched.',
            hint = 'Run the same move with --finish, then try again.';
    elsif epoch is null then
        raise object_not_in_prerequisite_state using message = 'This store was emptied by hand. Nothing was touched.';
    end if;
    return epoch;
end
$$;

-- Makes ready for writing, as the library does; answers the epoch, which stays what it is until the end of the transaction.
create function chatkeep.begin_act() returns text language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
begin
    if current_setting('transaction_isolation') not in ('read committed', 'read uncommitted') then
        raise invalid_transaction_state using message = 'chatkeep writes in READ COMMITTED transactions alone. Nothing was touched.';
    end if;
    if current_setting('synchronous_commit') = 'off' then
        perform set_config('synchronous_commit', 'on', true);
    end if;
    lock table chatkeep.conversation in row exclusive mode;
    return chatkeep.epoch_here();
end
$$;

-- What a save answers.
create function chatkeep.saved(tenant text, id text, born text, head bigint, body bytea, added text[], conflicts text[]) returns jsonb
language sql immutable set search_path = pg_catalog, pg_temp as $$
    select jsonb_build_object('id', id, 'version', chatkeep.version_of(head, body), 'title', coalesce(chatkeep.json(body) ->> 'title', ''),
                              'checksum', chatkeep.checksum_of(tenant, id, born, head, body),
                              'added', to_jsonb(added), 'conflicts', to_jsonb(conflicts))
$$;

-- Saves a title and messages into a conversation of a user, creating it where there is none. Messages go by their ids: what the log has
-- stays as it is, and nothing that is saved is answered. A title that was written in ignorance of a newer one (p_version or p_checksum
-- tell what was known), and a message that says something else than the log under its id, are conflicts: the answer names them, and the
-- log keeps what gave way. p_force_overwrite takes the title as it is given.
create function chatkeep.save_conversation(
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
                    then p_checksum = chatkeep.checksum_of(held.tenant, held.id, held.born, held.head, held.body)
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

-- Appends what a user says, for the bot to answer, creating the conversation where there is none. Under an id that is known nothing happens
-- a second time.
create function chatkeep.append_message(p_user_id text, p_conversation_id text, p_content jsonb, p_id text default null)
returns jsonb language plpgsql volatile security definer set search_path = pg_catalog, pg_temp as $$
declare
    epoch    text := chatkeep.begin_act();
    v_tenant text := chatkeep.whose_tenant();
    now      float8 := extract(epoch from clock_timestamp());
    id       text := coalesce(p_id, gen_random_uuid()::text);
    owners   text[];
    user_id  text;
    held     chatkeep.conversation;
    said     chatkeep.given_message;
    answer   chatkeep.answer;
begin
    perform chatkeep.refuse_others(p_user_id);
    perform chatkeep.refuse_key(p_conversation_id);
    user_id := chatkeep.acting_user(v_tenant, p_user_id);
    owners := chatkeep.find_owners(v_tenant, p_user_id);
    select * into said from chatkeep.read_messages(jsonb_build_array(jsonb_build_object('id', id, 'content', p_content)), now);
    loop
        held := chatkeep.hold_conversation(v_tenant, p_conversation_id, owners);
        now := greatest(now, held.updated_at);
        answer := chatkeep.append(
            epoch, v_tenant, p_conversation_id, left(replace(gen_random_uuid()::text, '-', ''), 16), user_id, null, now,
            chatkeep.step_of(now), 0, 0, 0, 0, 1, true, array[id], array['u'],
            array[chatkeep.entry_body(v_tenant, p_conversation_id, now, said.content, '{}', '')]);
        exit when answer.verdict = 'done' and answer.owner = any (owners);
        now := greatest(extract(epoch from clock_timestamp()), answer.erased_at + 0.001);
    end loop;
    perform chatkeep.announce_work();
    return jsonb_build_object('id', id, 'number', coalesce(answer.known_numbers[1], answer.head),
                              'version', chatkeep.version_of(answer.head, answer.body), 'duplicate', answer.known_ids is not null);
end
$$;

-- A user's conversations, pinned ones first, then the last changed first. messages: the last p_last of what was said.
create function chatkeep.load_conversations(p_user_id text, p_limit int default 100, p_last int default 1000, p_before timestamptz default null)
returns table (
    id text, title text, version bigint, checksum text, created_at timestamptz, updated_at timestamptz, archived boolean, pinned boolean,
    head bigint, seen bigint, state jsonb, messages jsonb
) language plpgsql volatile security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
declare
    v_tenant text := chatkeep.whose_tenant();
begin
    perform chatkeep.epoch_here();
    perform chatkeep.refuse_others(p_user_id);
    perform chatkeep.acting_user(v_tenant, p_user_id);
    return query
    select c.id, coalesce(r.body ->> 'title', ''), chatkeep.version_of(c.head, c.body),
           chatkeep.checksum_of(c.tenant, c.id, c.born, c.head, c.body), chatkeep.moment(c.created_at), chatkeep.moment(c.updated_at),
           coalesce((r.body -> 'archived')::boolean, false), coalesce((r.body -> 'pinned')::boolean, false), c.head,
           coalesce(chatkeep.whole(r.body -> 'seen'), 0), chatkeep.state(c.body), coalesce(m.said, '[]')
    from chatkeep.conversation c
    cross join lateral (select chatkeep.json(c.body) as body) r
    cross join lateral (
        select jsonb_agg(jsonb_build_object('id', s.id, 'number', s.number, 'role', s.role, 'content', s.content, 'created_at', s.seconds,
                                            'metadata', s.metadata) order by s.number) as said
        from (
            select coalesce(nullif(e.id, ''), c.born || '.' || e.number) as id, e.number, chatkeep.role_of(e.role) as role,
                   l.line -> 2 as content, (chatkeep.whole(l.line -> 1) / 1000.0)::float8 as seconds, coalesce(l.line -> 5, '{}') as metadata
            from chatkeep.entry e cross join lateral (select chatkeep.json(e.body) as line) l
            where e.conversation = c.number and e.role in ('u', 'a', 'o') and e.body <> ''
            order by e.number desc limit greatest(p_last, 0)
        ) s
    ) m
    where c.tenant = v_tenant and c.owner <> '' and c.owner = any (chatkeep.find_owners(v_tenant, p_user_id))
      and (p_before is null or c.updated_at < extract(epoch from p_before))
    order by coalesce((r.body -> 'pinned')::boolean, false) desc, c.updated_at desc, c.id
    limit greatest(p_limit, 0);
end
$$;

-- What a save has brought waits for no answer.
create or replace view chatkeep.conversations as
select c.tenant, c.id, nullif(c.owner, '') as owner,
       chatkeep.state(c.body) as state,
       case when chatkeep.json(c.body) is not null then coalesce(chatkeep.whole(chatkeep.json(c.body) -> 'session'), 0) end as session,
       c.head as messages,
       (select count(*) from chatkeep.entry e
        where e.conversation = c.number and e.role in ('u', 'e')
          and e.number > coalesce(chatkeep.whole(chatkeep.json(c.body) -> 'cursor'), 0)
          and chatkeep.json(e.body) ->> 6 is distinct from '~') as unread,
       chatkeep.moment(c.created_at) as created_at, chatkeep.moment(c.updated_at) as updated_at,
       case when c.due_at is not null then chatkeep.moment(greatest(c.due_at, c.updated_at)) end as due_at,
       chatkeep.json(c.body) is null and c.body <> '' as damaged,
       coalesce(chatkeep.json(c.body) ->> 'title', '') as title
from chatkeep.conversation c
where left(c.tenant, 1) <> '~';

-- The same conversations and messages as views, for roles that may read these alone.
create view chatkeep.my_conversations with (security_barrier) as
select c.id, coalesce(chatkeep.json(c.body) ->> 'title', '') as title, chatkeep.version_of(c.head, c.body) as version,
       chatkeep.checksum_of(c.tenant, c.id, c.born, c.head, c.body) as checksum, chatkeep.state(c.body) as state, c.head,
       chatkeep.moment(c.created_at) as created_at, chatkeep.moment(c.updated_at) as updated_at
from chatkeep.conversation c
where c.tenant = (select chatkeep.whose_tenant()) and c.owner = any (array(select unnest(chatkeep.my_owners())));

create view chatkeep.my_messages with (security_barrier) as
select c.id as conversation, e.number, coalesce(nullif(e.id, ''), c.born || '.' || e.number) as id, chatkeep.role_of(e.role) as role,
       chatkeep.json(e.body) -> 2 as content, chatkeep.content_text(chatkeep.json(e.body) -> 2) as text,
       chatkeep.moment(chatkeep.whole(chatkeep.json(e.body) -> 1) / 1000.0::float8) as created_at
from chatkeep.entry e join chatkeep.conversation c on c.number = e.conversation
where e.role in ('u', 'a', 'o') and e.body <> ''
  and c.tenant = (select chatkeep.whose_tenant()) and c.owner = any (array(select unnest(chatkeep.my_owners())));

-- The second line: a role that may read the tables, and not write them, sees in them what is its own. (An owner of the tables is not asked.)
alter table chatkeep.conversation enable row level security;
alter table chatkeep.entry enable row level security;
create policy service on chatkeep.conversation using ((select chatkeep.is_service(current_user)));
create policy service on chatkeep.entry using ((select chatkeep.is_service(current_user)));
create policy own on chatkeep.conversation for select
    using (tenant = (select chatkeep.whose_tenant()) and owner = any (array(select unnest(chatkeep.my_owners()))));
create policy own on chatkeep.entry for select
    using (conversation in (select c.number from chatkeep.conversation c
                            where c.tenant = (select chatkeep.whose_tenant()) and c.owner = any (array(select unnest(chatkeep.my_owners())))));

revoke execute on function chatkeep.save_conversation, chatkeep.append_message, chatkeep.load_conversations from public;

update chatkeep.meta set value = '7' where name = 'schema';

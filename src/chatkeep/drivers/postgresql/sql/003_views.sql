-- What SQL may look at: conversations and messages, JSON as jsonb, times as timestamps. Tenants that start with ~ are
-- chatkeep's own. A body that cannot be read comes out as null and breaks nothing.

create function chatkeep.json(body bytea) returns jsonb language plpgsql immutable strict as $$
begin
    return convert_from(body, 'UTF8')::jsonb;
exception when others then
    return null;
end
$$;

-- The state of a conversation's live session; in a view or an index over chatkeep.conversation.
create function chatkeep.state(body bytea) returns jsonb language sql immutable strict as $$
    select nullif(chatkeep.json(body) -> 'state', 'null')
$$;

create function chatkeep.whole(value jsonb) returns bigint language sql immutable strict as $$
    select case jsonb_typeof(value) when 'number' then
        case when value::numeric between -9e18 and 9e18 then value::numeric::bigint end
    end
$$;

create function chatkeep.moment(seconds float8) returns timestamptz language sql immutable strict as $$
    select case when seconds between -2e11 and 9e12 then to_timestamp(seconds) end
$$;

create function chatkeep.content_text(content jsonb) returns text language sql immutable strict as $$
    select case jsonb_typeof(content)
        when 'string' then content #>> '{}'
        when 'array' then (select string_agg(part ->> 'text', E'\n' order by place)
                           from jsonb_array_elements(content) with ordinality as p (part, place))
    end
$$;

create view chatkeep.conversations as
select c.tenant, c.id, nullif(c.owner, '') as owner,
       chatkeep.state(c.body) as state,
       case when chatkeep.json(c.body) is not null then coalesce(chatkeep.whole(chatkeep.json(c.body) -> 'session'), 0) end as session,
       c.head as messages,
       (select count(*) from chatkeep.entry e
        where e.conversation = c.number and e.role in ('u', 'e')
          and e.number > coalesce(chatkeep.whole(chatkeep.json(c.body) -> 'cursor'), 0)) as unread,
       chatkeep.moment(c.created_at) as created_at, chatkeep.moment(c.updated_at) as updated_at, chatkeep.moment(c.due_at) as due_at,
       chatkeep.json(c.body) is null and c.body <> '' as damaged
from chatkeep.conversation c
where left(c.tenant, 1) <> '~';

create view chatkeep.messages as
select c.tenant, c.id as conversation, e.number,
       coalesce(nullif(e.id, ''), c.born || '.' || e.number) as id,
       case e.role when 'u' then 'user' when 'a' then 'assistant' when 'o' then 'operator' when 's' then 'system' when 'e' then 'event'
                   else e.role end as role,
       chatkeep.json(e.body) -> 2 as content,
       chatkeep.content_text(chatkeep.json(e.body) -> 2) as text,
       chatkeep.moment(chatkeep.whole(chatkeep.json(e.body) -> 1) / 1000.0::float8) as created_at,
       chatkeep.whole(chatkeep.json(e.body) -> 3) as reply_to
from chatkeep.entry e join chatkeep.conversation c on c.number = e.conversation
where left(c.tenant, 1) <> '~';

update chatkeep.meta set value = '3' where name = 'schema';

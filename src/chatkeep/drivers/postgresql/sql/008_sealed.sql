-- A store that is sealed: its functions for users are refused by name, and its views tell what is sealed from what is damaged. (\xf5 is
-- how a sealed body begins, and no text does.)

create or replace function chatkeep.refuse_others(p_user_id text) returns void language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
    if exists (select from chatkeep.conversation c where c.tenant = '~keys' and c.id = 'note') then
        raise feature_not_supported using
            message = 'This store is sealed, and SQL has no key to what is in it. Nothing was touched.',
            hint = 'The library and the server seal and open; see "SQL" in the documentation of sealing.';
    elsif coalesce(p_user_id, '') = '' or octet_length(p_user_id) > 512 then
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

create or replace view chatkeep.conversations as
select c.tenant, c.id, nullif(c.owner, '') as owner,
       chatkeep.state(c.body) as state,
       case when chatkeep.json(c.body) is not null then coalesce(chatkeep.whole(chatkeep.json(c.body) -> 'session'), 0) end as session,
       c.head as messages,
       case when substr(c.body, 1, 1) <> '\xf5' then (select count(*) from chatkeep.entry e
        where e.conversation = c.number and e.role in ('u', 'e')
          and e.number > coalesce(chatkeep.whole(chatkeep.json(c.body) -> 'cursor'), 0)
          and chatkeep.json(e.body) ->> 6 is distinct from '~') end as unread,
       chatkeep.moment(c.created_at) as created_at, chatkeep.moment(c.updated_at) as updated_at,
       case when c.due_at is not null then chatkeep.moment(greatest(c.due_at, c.updated_at)) end as due_at,
       chatkeep.json(c.body) is null and c.body <> '' and substr(c.body, 1, 1) <> '\xf5' as damaged,
       coalesce(chatkeep.json(c.body) ->> 'title', '') as title,
       substr(c.body, 1, 1) = '\xf5' as sealed
from chatkeep.conversation c
where left(c.tenant, 1) <> '~';

update chatkeep.meta set value = '8' where name = 'schema';

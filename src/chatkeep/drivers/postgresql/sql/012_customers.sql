-- A user could begin the conversation of a channel's customer who had not written yet, such as whatsapp:1550:4917, and owned what the customer
-- wrote. It is refused in the words of what is somebody else's, whether the customer has written or not; services that act for nobody in
-- particular may begin it.

-- Whether an id is one under which a channel knows a customer.
create function chatkeep.is_customers(id text) returns boolean language sql immutable set search_path = pg_catalog, pg_temp as $$
    select id ~ '^(whatsapp|messenger|instagram|telegram|webhook):[^:]*:'
$$;

-- A conversation as one who may see it has it before him: locked for this transaction, and refused to everybody else.
create or replace function chatkeep.hold_conversation(tenant text, id text, owners text[]) returns chatkeep.conversation language plpgsql volatile
set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
declare
    held chatkeep.conversation;
    text text;
begin
    select c.* into held from chatkeep.conversation c
    where c.tenant = hold_conversation.tenant and c.id = hold_conversation.id for no key update;
    if found and held.owner <> all (owners)
       or not found and chatkeep.who() is not null and chatkeep.is_customers(hold_conversation.id) then
        raise insufficient_privilege using
            message = format('The conversation %L is somebody else''s. Nothing was touched.', hold_conversation.id);
    elsif held.body <> '' then
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

update chatkeep.meta set value = '12' where name = 'schema';

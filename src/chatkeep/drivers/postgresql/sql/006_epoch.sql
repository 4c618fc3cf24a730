-- Gives the store another epoch, if it has the one given: waits for every act under the old one, and none comes after.
-- Tells whether the store has the new one now.
create function chatkeep.set_epoch(epoch text, fresh text) returns boolean language plpgsql volatile as $$
begin
    -- An act holds the lock that this one excludes until it is committed, and looks at the epoch when it has the lock.
    lock table chatkeep.conversation in share row exclusive mode;
    update chatkeep.meta m set value = fresh where m.name = 'epoch' and m.value = set_epoch.epoch;
    return exists (select from chatkeep.meta m where m.name = 'epoch' and m.value = fresh);
end
$$;

update chatkeep.meta set value = '6' where name = 'schema';

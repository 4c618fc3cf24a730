-- The full-text index, made when it is first asked for (see search.py) and no step of the schema: an older chatkeep goes on with such a
-- file, and its acts fire the triggers too. Only what knows the words, which is above the driver, can put them in.

create table search_word (
    number integer primary key,
    tenant text    not null,
    word   text    not null,
    unique (tenant, word)
);
create index search_word_any on search_word (word);

create table search_posting (
    word  integer not null, -- number of a search_word
    place integer not null, -- of a search_entry
    primary key (word, place)
) without rowid;

create table search_entry (
    place        integer primary key, -- rises with the time at which the entry was written
    conversation integer not null,
    number       integer not null,
    words        text    not null     -- the numbers of its words, as JSON: a trigger has to find its postings
);
create unique index search_entry_number on search_entry (conversation, number);

-- Entries that came since the index was made, and whose words are not in it yet. Number 0 is the row of the conversation, here as there.
create table search_waiting (conversation integer not null, number integer not null, primary key (conversation, number)) without rowid;

-- Of what was there before, all from (conversation, number) on has been gone through; total: the highest conversation of then.
create table search_progress (total integer not null, conversation integer not null, number integer not null);
insert into search_progress select coalesce(max(number), 0), coalesce(max(number), 0) + 1, 0 from conversation;

create trigger search_new after insert on entry begin
    insert or ignore into search_waiting values (new.conversation, new.number);
end;

create trigger search_gone after delete on entry begin
    delete from search_waiting where conversation = old.conversation and number = old.number;
    delete from search_entry where conversation = old.conversation and number = old.number;
end;

create trigger search_blank after update of body on entry when new.body = x'' begin
    delete from search_waiting where conversation = old.conversation and number = old.number;
    delete from search_entry where conversation = old.conversation and number = old.number;
end;

create trigger search_row_new after insert on conversation begin
    insert or ignore into search_waiting values (new.number, 0);
end;

create trigger search_row_changed after update of body on conversation when new.body is not old.body begin
    insert or ignore into search_waiting values (new.number, 0);
end;

create trigger search_row_gone after delete on conversation begin
    delete from search_waiting where conversation = old.number and number = 0;
    delete from search_entry where conversation = old.number and number = 0;
end;

create trigger search_take after delete on search_entry begin
    delete from search_posting where word in (select value from json_each(old.words)) and place = old.place;
    delete from search_word where number in (select value from json_each(old.words))
        and not exists (select 1 from search_posting where word = search_word.number);
end;

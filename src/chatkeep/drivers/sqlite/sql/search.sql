-- Every statement of drivers/sqlite/search.py, on the tables of search_index.sql.

-- name: is_on
-- (An index without this trigger, which has no rows, counts as none.)
select 1 from sqlite_schema where name = 'search_row_new';

-- name: progress
select total, conversation, number from search_progress;

-- name: old
select * from (
    select * from (
        select e.conversation, e.number
        from entry e join conversation c on c.number = e.conversation
        where (e.conversation, e.number) < (:conversation, :number) and e.body <> x''
        order by e.conversation desc, e.number desc limit :limit
    )
    union all
    select * from (
        select number, 0 from conversation
        where number <= :conversation and (number, 0) < (:conversation, :number) order by number desc limit :limit
    )
) order by 1 desc, 2 desc limit :limit;

-- name: advance
update search_progress set conversation = :conversation, number = :number;

-- name: is_there
select c.tenant from conversation c join entry e on e.conversation = c.number
where c.number = :of and e.number = :number and e.body <> x'' and not exists (
    select 1 from search_entry where conversation = :of and number = :number
);

-- name: row_of
select tenant, revision, updated_at from conversation where number = :of;

-- name: words_of_row
select place, (select json_group_array(word) from search_word where number in (select value from json_each(words)))
from search_entry where conversation = :of and number = 0;

-- name: take_row
delete from search_entry where conversation = :of and number = 0;

-- name: wait
insert or ignore into search_waiting values (:of, :number);

-- name: free_place
select coalesce(max(place) + 1, :first) from search_entry where place >= :first and place < :end;

-- name: put_word
insert into search_word (tenant, word) values (:tenant, :word) on conflict do nothing;

-- name: number_of
select number from search_word where tenant = :tenant and word = :word;

-- name: put_entry
insert into search_entry (place, conversation, number, words) values (:place, :of, :number, :words);

-- name: put_posting
insert into search_posting (word, place) values (?, ?);

-- name: done
delete from search_waiting where conversation = :of and number = :number;

-- name: waiting
select count(*) from (select 1 from search_waiting limit :most);

-- name: hand_out_new
select c.tenant, c.id, c.number, w.number, coalesce(e.id, c.revision), coalesce(e.role, ''), cast(coalesce(e.body, c.body) as blob)
from search_waiting w
join conversation c on c.number = w.conversation
left join entry e on e.conversation = w.conversation and e.number = w.number
where w.number = 0 or e.number is not null
order by w.conversation desc, w.number desc limit :limit;

-- name: hand_out_old
select c.tenant, c.id, c.number, :number, coalesce(e.id, c.revision), coalesce(e.role, ''), cast(coalesce(e.body, c.body) as blob)
from conversation c left join entry e on e.conversation = c.number and e.number = :number
where c.number = :conversation;

-- name: words_from
select number, word from search_word where tenant = :tenant and word >= :word order by word;

-- name: words_from_all
select number, word from search_word where word >= :word order by word;

-- name: how_many
select count(*) from (select 1 from search_posting where word = :word and place < :before limit :most);

-- name: places
select place from search_posting where word = :word and place < :before order by place desc;

-- name: all_places
select place from search_entry where place < :before order by place desc;

-- name: entry_at
select conversation, number, words from search_entry where place = :place;

-- name: entries_after
select words from search_entry where conversation = :of and number > :number order by number desc;

-- name: key_of
select tenant, id from conversation where number = :of;

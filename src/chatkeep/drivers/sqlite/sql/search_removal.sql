-- Takes the full-text index out of the file, with all that watches for it.

drop trigger if exists search_new;
drop trigger if exists search_gone;
drop trigger if exists search_blank;
drop trigger if exists search_row_new;
drop trigger if exists search_row_changed;
drop trigger if exists search_row_gone;
drop trigger if exists search_take;
drop table if exists search_progress;
drop table if exists search_waiting;
drop table if exists search_entry;
drop table if exists search_posting;
drop table if exists search_word;

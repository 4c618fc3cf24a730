-- Takes the full-text index out of the file, with all that watches for it.

drop trigger search_new;
drop trigger search_gone;
drop trigger search_blank;
drop trigger search_row_new;
drop trigger search_row_changed;
drop trigger search_row_gone;
drop trigger search_take;
drop table search_progress;
drop table search_waiting;
drop table search_entry;
drop table search_posting;
drop table search_word;

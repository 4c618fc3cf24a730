-- Versions up to 0.1 that have the file open do not look at the epoch at each act. They do not have this function either, so that
-- nothing that they run can change a conversation, and SQLite says why.

-- name: close
create trigger if not exists closed_insert before insert on conversation begin
    select closed_to_versions_before_0_2() where false;
end;
create trigger if not exists closed_update before update on conversation begin
    select closed_to_versions_before_0_2() where false;
end;
create trigger if not exists closed_delete before delete on conversation begin
    select closed_to_versions_before_0_2() where false;
end;

-- name: reopen
drop trigger if exists closed_insert;
drop trigger if exists closed_update;
drop trigger if exists closed_delete;

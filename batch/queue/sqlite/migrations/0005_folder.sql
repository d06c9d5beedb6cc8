-- The folder's ledger, in the queue's database: a file and its first job are one transaction. Homes of version 0.1 have these
-- tables already, made outside the migrations.
create table if not exists content (
  id integer primary key, key text not null unique, sha256 text not null, size integer not null, kind text not null,
  parameters text not null, state text not null, step text not null, job text not null, jobs text not null,
  models text not null default '{}', error text, owner integer, created_at real not null, finished_at real);
create index if not exists content_job on content (job);
create index if not exists content_state on content (state, id) where state <> 'done';
create table if not exists file (
  id integer primary key, path blob not null unique, folder blob not null, size integer not null,
  mtime_ns integer not null, inode integer not null, ctime_ns integer not null, state text not null,
  content integer, error text, rules text not null default '{}', gone integer not null default 0,
  accepted_at real not null, finished_at real);
create index if not exists file_folder on file (folder) where gone = 0;
create index if not exists file_content on file (content);
create index if not exists file_writing on file (id) where state = 'writing';
create index if not exists file_state_id on file (state, id);
create table if not exists file_tally (state text primary key, n integer not null) without rowid;
create trigger if not exists file_insert after insert on file begin
  insert into file_tally values (new.state, 1) on conflict do update set n = n + 1;
end;
create trigger if not exists file_state after update of state on file when old.state <> new.state begin
  update file_tally set n = n - 1 where state = old.state;
  insert into file_tally values (new.state, 1) on conflict do update set n = n + 1;
end;
create trigger if not exists file_delete after delete on file begin
  update file_tally set n = n - 1 where state = old.state;
end;

-- What `batch redo` asks for: JSON of the settings that are different this time.
alter table file add column redo text;

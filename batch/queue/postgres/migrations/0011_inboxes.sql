-- Each home that shares the database watches an inbox of its own: the folder's ledger and the search index know whose a row is.
alter table file add column front word not null default '';
alter table content add column front word not null default '';
alter table file_tally add column front word not null default '';
alter table entry add column front word not null default '';
alter table entry_source add column front word not null default '';

-- What is there belongs to the home that watched the only inbox until now.
do $$ declare
  front_ text := coalesce(
    (select value::json ->> 'front' from service where front = '' and name = 'inbox '),
    (select value::json ->> 'front' from service where front = '' and name = 'duties'),
    (select min(front) from service where front <> ''), '');
begin
  update file set front = front_;
  update content set front = front_;
  update file_tally set front = front_;
  update entry set front = front_;
  update entry_source set front = front_;
end $$;

-- A rebuild of the index that was broken off begins anew, as it lacks these columns.
drop trigger if exists _reindex_note on entry_source;
drop table if exists _reindex_entry, _reindex_entry_source, _reindex_passage, _reindex_passage_fts, _reindex_vector,
  _reindex_change, _reindex_progress;

-- What was made by a rebuild of the index has other names for the same.
do $$ declare
  constraint_ record;
begin
  for constraint_ in
    select c.conrelid::regclass as table_, c.conname from pg_constraint c
      where (c.conrelid in ('file'::regclass, 'content'::regclass, 'entry'::regclass) and c.contype = 'u')
        or (c.conrelid in ('file_tally'::regclass, 'entry_source'::regclass) and c.contype = 'p')
  loop
    execute format('alter table %s drop constraint %I', constraint_.table_, constraint_.conname);
  end loop;
end $$;
alter table file add unique (front, path);
alter table content add unique (front, key);
alter table file_tally add primary key (front, state);
alter table entry add unique (front, content);
alter table entry_source add primary key (front, path);

drop index file_folder, file_writing, file_state_id, content_state;
create index file_folder on file (front, folder, path) where gone = 0;
create index file_writing on file (front, id) where state = 'writing';
create index file_state_id on file (front, state, id);
create index file_id on file (front, id);
create index content_state on content (front, id) where state <> 'done';

create or replace function file_counted() returns trigger language plpgsql as $$
begin
  if tg_op <> 'INSERT' then
    update file_tally set n = n - 1 where front = old.front and state = old.state;
  end if;
  if tg_op <> 'DELETE' then
    insert into file_tally (front, state, n) values (new.front, new.state, 1)
      on conflict (front, state) do update set n = file_tally.n + 1;
  end if;
  return null;
end $$;

create or replace function note_changed_path() returns trigger language plpgsql as $$
begin
  if tg_op <> 'INSERT' then
    execute format('insert into %I values ($1, $2) on conflict do nothing', tg_argv[0]) using old.front, old.path;
  end if;
  if tg_op <> 'DELETE' then
    execute format('insert into %I values ($1, $2) on conflict do nothing', tg_argv[0]) using new.front, new.path;
  end if;
  return null;
end $$;

-- What SQLite's triggers do, in PL/pgSQL.
create function job_changed() returns trigger language plpgsql as $$
begin
  if tg_op = 'INSERT' then
    insert into state_change (kind, origin, priority, new) values (new.kind, new.origin, new.priority, new.state);
  elsif tg_op = 'UPDATE' then
    if new.state in ('done', 'failed', 'cancelled') then
      insert into state_change (kind, origin, priority, old, new, day, seconds, waited) values (
        new.kind, new.origin, new.priority, old.state, new.state,
        to_char(to_timestamp(new.finished_at) at time zone 'UTC', 'YYYY-MM-DD'),
        coalesce(new.finished_at - new.started_at, 0), coalesce(new.started_at - new.created_at, 0));
    else
      insert into state_change (kind, origin, priority, old, new)
        values (new.kind, new.origin, new.priority, old.state, new.state);
    end if;
  else
    insert into state_change (kind, origin, priority, old) values (old.kind, old.origin, old.priority, old.state);
    delete from blob where job = old.id;
    delete from checkpoint where job = old.id;
    delete from idempotency where job = old.id;
  end if;
  return null;
end $$;
create trigger job_insert after insert on job for each row execute function job_changed();
create trigger job_state after update of state on job for each row when (old.state <> new.state) execute function job_changed();
create trigger job_delete after delete on job for each row execute function job_changed();

create function fold_state_changes(most integer) returns boolean language plpgsql as $$
begin
  if not pg_try_advisory_xact_lock(7082110, 3) then
    return false;
  end if;
  with gone as (
    delete from state_change where id in (select id from state_change order by id limit most) returning *),
  days as (
    insert into daily_folded as f
      select day, kind, new, count(*), sum(seconds), sum(waited) from gone where day is not null group by day, kind, new
      on conflict (day, kind, state) do update
        set n = f.n + excluded.n, seconds = f.seconds + excluded.seconds, waited = f.waited + excluded.waited)
  insert into tally_folded as f
    select kind, origin, priority, state, sum(n) from (
      select kind, origin, priority, old as state, -1 as n from gone where old is not null
      union all select kind, origin, priority, new, 1 from gone where new is not null) as parts
    group by kind, origin, priority, state
    on conflict (kind, origin, priority, state) do update set n = f.n + excluded.n;
  return true;
end $$;

create function blob_deleted() returns trigger language plpgsql as $$
begin
  insert into orphan values (old.sha256) on conflict do nothing;
  return null;
end $$;
create trigger blob_delete after delete on blob for each row execute function blob_deleted();

create function holder_deleted() returns trigger language plpgsql as $$
begin
  delete from blob where job = old.id;
  if tg_table_name = 'batch' then
    delete from batch_line where batch = old.sequence;
    delete from batch_file where batch = old.sequence;
  end if;
  return null;
end $$;
create trigger stored_file_delete after delete on stored_file for each row execute function holder_deleted();
create trigger upload_part_delete after delete on upload_part for each row execute function holder_deleted();
create trigger batch_delete after delete on batch for each row execute function holder_deleted();
create trigger item_delete after delete on item for each row execute function holder_deleted();
create trigger chat_completion_delete after delete on chat_completion for each row execute function holder_deleted();

create function file_counted() returns trigger language plpgsql as $$
begin
  if tg_op <> 'INSERT' then
    update file_tally set n = n - 1 where state = old.state;
  end if;
  if tg_op <> 'DELETE' then
    insert into file_tally values (new.state, 1) on conflict (state) do update set n = file_tally.n + 1;
  end if;
  return null;
end $$;
create trigger file_insert after insert on file for each row execute function file_counted();
create trigger file_state after update of state on file for each row when (old.state <> new.state) execute function file_counted();
create trigger file_delete after delete on file for each row execute function file_counted();

create function response_deleted() returns trigger language plpgsql as $$
begin
  delete from response_item where response = old.sequence;
  delete from response_event where response = old.sequence;
  return null;
end $$;
create trigger response_delete after delete on response for each row execute function response_deleted();
create function conversation_deleted() returns trigger language plpgsql as $$
begin
  delete from conversation_item where conversation = old.id;
  return null;
end $$;
create trigger conversation_delete after delete on conversation for each row execute function conversation_deleted();
create function item_released() returns trigger language plpgsql as $$
begin
  delete from item where id = old.item and not exists (select 1 from response_item r where r.item = old.item)
    and not exists (select 1 from conversation_item c where c.item = old.item);
  return null;
end $$;
create trigger response_item_delete after delete on response_item for each row execute function item_released();
create trigger conversation_item_delete after delete on conversation_item for each row execute function item_released();

create function bytes_counted() returns trigger language plpgsql as $$
declare
  difference bigint := 0;
begin
  if tg_op <> 'INSERT' then
    difference := difference - octet_length(old.data);
    if tg_table_name = 'response' then difference := difference - octet_length(old.request); end if;
    if tg_table_name = 'chat_completion' then difference := difference - octet_length(old.messages); end if;
  end if;
  if tg_op <> 'DELETE' then
    difference := difference + octet_length(new.data);
    if tg_table_name = 'response' then difference := difference + octet_length(new.request); end if;
    if tg_table_name = 'chat_completion' then difference := difference + octet_length(new.messages); end if;
  end if;
  update stored_bytes set n = n + difference;
  return null;
end $$;
create trigger response_bytes after insert or update of data or delete on response for each row execute function bytes_counted();
create trigger item_bytes after insert or update of data or delete on item for each row execute function bytes_counted();
create trigger response_event_bytes after insert or delete on response_event for each row execute function bytes_counted();
create trigger chat_completion_bytes after insert or delete on chat_completion for each row execute function bytes_counted();

create function notification_target_deleted() returns trigger language plpgsql as $$
begin
  delete from notification_delivery where target = old.id;
  return null;
end $$;
create trigger notification_target_delete after delete on notification_target
  for each row execute function notification_target_deleted();
create function notification_delivery_deleted() returns trigger language plpgsql as $$
begin
  delete from notification_event where id = old.event
    and not exists (select 1 from notification_delivery where event = old.event);
  return null;
end $$;
create trigger notification_delivery_delete after delete on notification_delivery
  for each row execute function notification_delivery_deleted();
create function notification_event_added() returns trigger language plpgsql as $$
begin
  insert into notification_delivery (event, target, next_attempt_at)
    select new.id, id, new.created_at from notification_target
    where is_enabled <> 0 and (event_types = '[]' or strpos(event_types, '"' || new.type || '"') > 0);
  delete from notification_event where id = new.id and not exists (select 1 from notification_delivery where event = new.id);
  return null;
end $$;
create trigger notification_event_insert after insert on notification_event
  for each row execute function notification_event_added();
create function something_ended() returns trigger language plpgsql as $$
declare
  type_ text;
  object_ text;
begin
  if not exists (select 1 from notification_target) then
    return null;
  end if;
  if tg_table_name = 'file' then
    type_ := case new.state when 'failed' then 'file.failed' else 'file.completed' end;
    object_ := 'file:' || new.id;
  else
    type_ := tg_table_name || '.' || new.status;
    object_ := new.id;
  end if;
  insert into notification_event values (new_event_id(), type_, object_, unix_now()::bigint);
  return null;
end $$;
create trigger batch_notify after update of status on batch for each row
  when (old.status <> new.status and new.status in ('completed', 'failed', 'expired', 'cancelled'))
  execute function something_ended();
create trigger response_notify after update of status on response for each row
  when (old.status <> new.status and new.background <> 0
    and new.status in ('completed', 'failed', 'incomplete', 'cancelled'))
  execute function something_ended();
create trigger file_notify after update of state on file for each row
  when (old.state = 'writing' and new.state in ('done', 'linked', 'failed')) execute function something_ended();

create function vector_deleted() returns trigger language plpgsql as $$
begin
  insert into passage_removed (passage) values (old.passage);
  return null;
end $$;
create trigger vector_delete after delete on vector for each row execute function vector_deleted();

-- Of a search index that is being made anew: which files changed meanwhile, in the table that the trigger names.
create function note_changed_path() returns trigger language plpgsql as $$
begin
  if tg_op <> 'INSERT' then
    execute format('insert into %I values ($1) on conflict do nothing', tg_argv[0]) using old.path;
  end if;
  if tg_op <> 'DELETE' then
    execute format('insert into %I values ($1) on conflict do nothing', tg_argv[0]) using new.path;
  end if;
  return null;
end $$;

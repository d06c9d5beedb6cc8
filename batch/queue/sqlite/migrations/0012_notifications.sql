-- Who is told of what, and what is still to be told. Rows come with the transaction in which the thing itself ends, so that a
-- kill between the two loses nothing; without a target nothing is written.
create table notification_target (
  id text primary key, name text not null, url text not null, event_types text not null, created_at integer not null,
  updated_at integer not null, is_from_settings integer not null default 0, is_enabled integer not null default 1) without rowid;
create table notification_event (
  id text primary key, type text not null, object text not null, created_at integer not null) without rowid;
create table notification_delivery (
  sequence integer primary key autoincrement, event text not null, target text not null, state text not null default 'pending',
  attempts integer not null default 0, next_attempt_at real not null, last_status integer, last_error text, ended_at integer,
  unique (event, target));
create index notification_delivery_due on notification_delivery (next_attempt_at) where state = 'pending';
create index notification_delivery_target on notification_delivery (target);
create index notification_delivery_ended on notification_delivery (ended_at) where ended_at is not null;
create trigger notification_target_delete after delete on notification_target begin
  delete from notification_delivery where target = old.id;
end;
create trigger notification_delivery_delete after delete on notification_delivery
  when not exists (select 1 from notification_delivery where event = old.event) begin
  delete from notification_event where id = old.event;
end;
create trigger notification_event_insert after insert on notification_event begin
  insert into notification_delivery (event, target, next_attempt_at)
    select new.id, id, new.created_at from notification_target
    where is_enabled and (event_types = '[]' or instr(event_types, '"' || new.type || '"'));
  delete from notification_event where id = new.id
    and not exists (select 1 from notification_delivery where event = new.id);
end;
create trigger batch_notify after update of status on batch
  when old.status <> new.status and new.status in ('completed', 'failed', 'expired', 'cancelled')
  and exists (select 1 from notification_target) begin
  insert into notification_event values (
    'evt_' || lower(hex(randomblob(12))), 'batch.' || new.status, new.id, cast(strftime('%s', 'now') as integer));
end;
create trigger response_notify after update of status on response
  when old.status <> new.status and new.background and new.status in ('completed', 'failed', 'incomplete', 'cancelled')
  and exists (select 1 from notification_target) begin
  insert into notification_event values (
    'evt_' || lower(hex(randomblob(12))), 'response.' || new.status, new.id, cast(strftime('%s', 'now') as integer));
end;
create trigger file_notify after update of state on file
  when old.state = 'writing' and new.state in ('done', 'linked', 'failed') and exists (select 1 from notification_target) begin
  insert into notification_event values (
    'evt_' || lower(hex(randomblob(12))), case new.state when 'failed' then 'file.failed' else 'file.completed' end,
    'file:' || new.id, cast(strftime('%s', 'now') as integer));
end;

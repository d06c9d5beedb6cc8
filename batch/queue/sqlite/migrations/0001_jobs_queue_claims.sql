-- `task` is huey's own table, with AUTOINCREMENT (huey's strict_fifo): ids are never reused, so a message put back under
-- its old id keeps its place in the line.
create table task (
  id integer not null primary key autoincrement, queue text not null, data blob not null,
  priority real not null default 0.0);
create index task_queue_priority_id on task (queue, priority desc, id);

create table job (
  id text primary key, kind text not null, task text not null, state text not null, origin text not null,
  priority integer not null, request text not null, result text, error text, progress text, source text, parent text,
  attempts integer not null default 0, cancel integer not null default 0, waited integer not null default 0,
  message integer, created_at real not null, started_at real, finished_at real);
create index job_kind_state on job (kind, state, id);
create index job_parent on job (parent) where parent is not null;

create table claim (
  job text primary key references job(id), queue text not null, data blob not null, priority real not null,
  message integer not null, taken_at real not null);

create table checkpoint (
  job text not null, step integer not null, data text not null, primary key (job, step)) without rowid;

create table blob (
  job text not null, sha256 text not null, role text not null, primary key (job, sha256, role)) without rowid;
create index blob_sha256 on blob (sha256);
create table orphan (sha256 text primary key) without rowid;

create table tally (
  kind text not null, origin text not null, priority integer not null, state text not null, n integer not null,
  primary key (kind, origin, priority, state)) without rowid;
create table daily (
  day text not null, kind text not null, state text not null, n integer not null, seconds real not null,
  waited real not null, primary key (day, kind, state)) without rowid;

create table service (name text primary key, value text not null) without rowid;

create trigger job_insert after insert on job begin
  insert into tally values (new.kind, new.origin, new.priority, new.state, 1)
    on conflict do update set n = n + 1;
end;
create trigger job_state after update of state on job when old.state <> new.state begin
  update tally set n = n - 1
    where kind = old.kind and origin = old.origin and priority = old.priority and state = old.state;
  insert into tally values (new.kind, new.origin, new.priority, new.state, 1)
    on conflict do update set n = n + 1;
end;
create trigger job_ended after update of state on job
  when old.state <> new.state and new.state in ('done', 'failed', 'cancelled') begin
  insert into daily values (date(new.finished_at, 'unixepoch', 'localtime'), new.kind, new.state, 1,
      coalesce(new.finished_at - new.started_at, 0), coalesce(new.started_at - new.created_at, 0))
    on conflict do update set n = n + 1, seconds = seconds + excluded.seconds, waited = waited + excluded.waited;
end;
create trigger job_delete after delete on job begin
  update tally set n = n - 1
    where kind = old.kind and origin = old.origin and priority = old.priority and state = old.state;
  delete from blob where job = old.id;
  delete from checkpoint where job = old.id;
end;
create trigger blob_delete after delete on blob begin
  insert or ignore into orphan values (old.sha256);
end;

-- Jobs of models that the settings name besides a kind's own, by that name: a walk for their list, and counters as `tally` and
-- `daily` are for kinds. Jobs of a kind's own model, which nearly all are, take no part in any of it.
create index job_model on job (model, kind, state, origin, id) where model <> '';
create table model_tally (
  model text not null, kind text not null, state text not null, n integer not null, primary key (model, kind, state))
  without rowid;
create table model_daily (
  day text not null, model text not null, kind text not null, state text not null, n integer not null, seconds real not null,
  primary key (day, model, kind, state)) without rowid;
insert into model_tally select model, kind, state, count(*) from job where model <> '' group by model, kind, state;
create trigger job_insert_model after insert on job when new.model <> '' begin
  insert into model_tally values (new.model, new.kind, new.state, 1) on conflict do update set n = n + 1;
end;
create trigger job_state_model after update of state on job when new.model <> '' and old.state <> new.state begin
  update model_tally set n = n - 1 where model = old.model and kind = old.kind and state = old.state;
  insert into model_tally values (new.model, new.kind, new.state, 1) on conflict do update set n = n + 1;
  insert into model_daily
    select date(new.finished_at, 'unixepoch', 'localtime'), new.model, new.kind, new.state, 1,
      coalesce(new.finished_at - new.started_at, 0)
    where new.state in ('done', 'failed', 'cancelled')
    on conflict do update set n = n + 1, seconds = seconds + excluded.seconds;
end;
create trigger job_delete_model after delete on job when old.model <> '' begin
  update model_tally set n = n - 1 where model = old.model and kind = old.kind and state = old.state;
end;

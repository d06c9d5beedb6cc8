-- Who ended a job, and jobs of models by name: a walk for their list, and counters of their own.
alter table job add column worker word not null default '';
create index job_model on job (model, kind, state, origin, id) where model <> '';

create or replace function end_job(job_ text, token_ bigint, state_ text, result_ text, error_ text) returns boolean
language plpgsql as $$
declare
  worker_ text;
begin
  delete from claim where job = job_ and token = token_ returning claim.worker into worker_;
  update job set state = state_, result = result_, error = error_, finished_at = greatest(unix_now(), started_at), message = null,
    worker = coalesce(worker_, '') where id = job_ and token = token_ and state = 'running';
  if not found then
    return false;
  end if;
  perform release_job(job_, state_);
  return true;
end $$;

alter table state_change add column model word not null default '';
create table model_tally_folded (
  model word, kind word, state word, n bigint not null, primary key (model, kind, state));
create table model_daily_folded (
  day word, model word, kind word, state word, n bigint not null, seconds double precision not null,
  primary key (day, model, kind, state));
insert into model_tally_folded select model, kind, state, count(*) from job where model <> '' group by model, kind, state;
create view model_tally as
  select model, kind, state, sum(n)::bigint as n from (
    select model, kind, state, n from model_tally_folded
    union all select model, kind, old, -1 from state_change where old is not null and model <> ''
    union all select model, kind, new, 1 from state_change where new is not null and model <> '') as parts
  group by model, kind, state;
create view model_daily as
  select day, model, kind, state, sum(n)::bigint as n, sum(seconds) as seconds from (
    select day, model, kind, state, n, seconds from model_daily_folded
    union all select day, model, kind, new, 1, seconds from state_change where day is not null and model <> '') as parts
  group by day, model, kind, state;

create or replace function job_changed() returns trigger language plpgsql as $$
begin
  if tg_op = 'INSERT' then
    insert into state_change (kind, model, origin, priority, new)
      values (new.kind, new.model, new.origin, new.priority, new.state);
  elsif tg_op = 'UPDATE' then
    if new.state in ('done', 'failed', 'cancelled') then
      insert into state_change (kind, model, origin, priority, old, new, day, seconds, waited) values (
        new.kind, new.model, new.origin, new.priority, old.state, new.state,
        to_char(to_timestamp(new.finished_at) at time zone 'UTC', 'YYYY-MM-DD'),
        coalesce(new.finished_at - new.started_at, 0), coalesce(new.started_at - new.created_at, 0));
    else
      insert into state_change (kind, model, origin, priority, old, new)
        values (new.kind, new.model, new.origin, new.priority, old.state, new.state);
    end if;
  else
    insert into state_change (kind, model, origin, priority, old)
      values (old.kind, old.model, old.origin, old.priority, old.state);
    delete from blob where job = old.id;
    delete from checkpoint where job = old.id;
    delete from idempotency where job = old.id;
  end if;
  return null;
end $$;

create or replace function fold_state_changes(most integer) returns boolean language plpgsql as $$
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
        set n = f.n + excluded.n, seconds = f.seconds + excluded.seconds, waited = f.waited + excluded.waited),
  model_days as (
    insert into model_daily_folded as f
      select day, model, kind, new, count(*), sum(seconds) from gone where day is not null and model <> ''
      group by day, model, kind, new
      on conflict (day, model, kind, state) do update set n = f.n + excluded.n, seconds = f.seconds + excluded.seconds),
  models as (
    insert into model_tally_folded as f
      select model, kind, state, sum(n) from (
        select model, kind, old as state, -1 as n from gone where old is not null and model <> ''
        union all select model, kind, new, 1 from gone where new is not null and model <> '') as parts
      group by model, kind, state
      on conflict (model, kind, state) do update set n = f.n + excluded.n)
  insert into tally_folded as f
    select kind, origin, priority, state, sum(n) from (
      select kind, origin, priority, old as state, -1 as n from gone where old is not null
      union all select kind, origin, priority, new, 1 from gone where new is not null) as parts
    group by kind, origin, priority, state
    on conflict (kind, origin, priority, state) do update set n = f.n + excluded.n;
  return true;
end $$;

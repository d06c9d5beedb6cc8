-- Who runs what where several workers share a queue: a task may be kept for one worker, or for workers of one build, until a
-- moment that is never far; the others pass over it until then.
alter table task add column build word;
create index task_held on task (queue, held_until) where held_until is not null;
alter table node add column takes word not null default 'all', add column prefixes text not null default '';

-- The next jobs of a queue, most urgent first, then oldest. A last row without a job says in how many seconds one that was passed
-- over is free: it is kept for others, or has not yet waited for `waited_s`.
create function lease_jobs(
  queue_ text, worker_ text, above_ double precision, limit_ integer, mate_task text, mate_taken_at double precision,
  lease_s double precision, waited_s double precision)
  returns table (leased job, free_in_s double precision) language plpgsql as $$
declare
  kind_ text := split_part(queue_, ':', 1);
  begun timestamptz := clock_timestamp();
  class double precision;
  below double precision := 'infinity';
  taken integer := 0;
  looked integer;
  message task%rowtype;
  remaining_s double precision;
begin
  while taken < limit_ loop
    select t.priority into class from task t where t.queue = queue_ and t.priority > above_ and t.priority < below
      order by t.priority desc limit 1;
    exit when not found;
    if exists (select 1 from pause p where p.kind = kind_ and p.priority = class) then
      below := class;
      continue;
    end if;
    if waited_s > 0 then  -- a look that locks nothing: an idle worker may come for this very job now
      select j.created_at + waited_s - unix_now() into remaining_s from job j where j.id = (
        select t.job from task t where t.queue = queue_ and t.priority = class
          and (t.held_until is null or t.held_until <= begun or t.holder = worker_
            or t.build = (select n.build from node n where n.id = worker_))
          order by t.id limit 1);
      if remaining_s > 0 then
        free_in_s := least(free_in_s, remaining_s);
        below := class;
        continue;
      end if;
    end if;
    looked := 0;
    for message in
      select * from task t where t.queue = queue_ and t.priority = class
        and (t.held_until is null or t.held_until <= begun or t.holder = worker_
          or t.build = (select n.build from node n where n.id = worker_))
        order by t.id limit limit_ - taken for update skip locked
    loop
      looked := looked + 1;
      -- Never before it was created: the clock may have been set back.
      update job j set state = 'running', attempts = j.attempts + 1, started_at = greatest(unix_now(), j.created_at),
        progress = null, token = nextval('token')
        where j.id = message.job and j.message = message.id and j.state = 'queued'
          and (mate_task is null or (j.task = mate_task and j.attempts = 0))
        returning j.* into leased;
      if found then
        delete from task t where t.id = message.id;
        -- The claims of batch mates share their time, by which `recover` tells them from jobs that wait for inner ones.
        insert into claim as c (job, queue, priority, message, taken_at, worker, token, until)
          values (leased.id, queue_, message.priority, message.id, coalesce(mate_taken_at, leased.started_at),
            worker_, leased.token, clock_timestamp() + make_interval(secs => lease_s))
          on conflict (job) do update set queue = excluded.queue, priority = excluded.priority, message = excluded.message,
            taken_at = excluded.taken_at, worker = excluded.worker, token = excluded.token, until = excluded.until;
        taken := taken + 1;
        return next;
      elsif mate_task is not null then
        return;
      else  -- none of ours: kept for a look, out of the way of the others
        update task t set queue = 'set aside' where t.id = message.id;
        raise warning 'message % of the % queue names no queued job: it is set aside', message.id, queue_;
      end if;
    end loop;
    if looked = 0 or mate_task is not null then
      below := class;
    end if;
  end loop;
  if taken = 0 and mate_task is null then
    select extract(epoch from min(t.held_until) - clock_timestamp()) into remaining_s from task t
      where t.queue = queue_ and t.held_until > begun and t.priority > above_;
    if remaining_s is not null then
      free_in_s := least(free_in_s, greatest(remaining_s, 0));
    end if;
    if free_in_s is not null then
      leased := null;
      return next;
    end if;
  end if;
end $$;

-- A second attempt goes to a worker of the build of the first, as other hardware draws other tokens, if one that lives is free
-- within half a second.
create or replace function put_back_job(job_ text, token_ bigint, count_ integer) returns text language plpgsql as $$
declare
  claimed claim%rowtype;
  build_ text;
begin
  delete from claim where job = job_ and token = token_ returning * into claimed;
  if not found then
    return null;
  end if;
  select n.build into build_ from node n where n.id = claimed.worker and n.build <> '' and exists (
    select 1 from node o where o.queue = claimed.queue and o.build = n.build and o.id <> n.id and o.status = 'ready'
      and o.is_draining = 0 and o.beat > clock_timestamp() - interval '15 seconds'
      and (o.takes = 'all' or claimed.priority > 10));
  insert into task (id, queue, job, priority, build, held_until)
    values (claimed.message, claimed.queue, job_, claimed.priority, build_,
      case when build_ is not null then clock_timestamp() + interval '0.5 seconds' end);
  update job set state = 'queued', started_at = null, attempts = attempts - case when count_ = 0 then 1 else 0 end where id = job_;
  return claimed.queue;
end $$;

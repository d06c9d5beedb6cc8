-- The way of a job, each step one statement for its client. Locks are taken in the order task, claim, job by all of them.

create function take_jobs(
  queue_ text, worker_ text, above_ double precision, limit_ integer, mate_task text, mate_taken_at double precision,
  lease_s double precision) returns setof job language plpgsql as $$
declare
  class double precision;
  below double precision := 'infinity';
  taken integer := 0;
  looked integer;
  message task%rowtype;
  lease job%rowtype;
begin
  while taken < limit_ loop
    select t.priority into class from task t where t.queue = queue_ and t.priority > above_ and t.priority < below
      order by t.priority desc limit 1;
    exit when not found;
    if exists (select 1 from pause p where p.kind = queue_ and p.priority = class) then
      below := class;
      continue;
    end if;
    looked := 0;
    for message in
      select * from task t where t.queue = queue_ and t.priority = class order by t.id limit limit_ - taken for update skip locked
    loop
      looked := looked + 1;
      -- Never before it was created: the clock may have been set back.
      update job j set state = 'running', attempts = j.attempts + 1, started_at = greatest(unix_now(), j.created_at),
        progress = null, token = nextval('token')
        where j.id = message.job and j.message = message.id and j.state = 'queued'
          and (mate_task is null or (j.task = mate_task and j.attempts = 0))
        returning j.* into lease;
      if found then
        delete from task where id = message.id;
        -- The claims of batch mates share their time, by which `recover` tells them from jobs that wait for inner ones.
        insert into claim as c (job, queue, priority, message, taken_at, worker, token, until)
          values (lease.id, queue_, message.priority, message.id, coalesce(mate_taken_at, lease.started_at),
            worker_, lease.token, clock_timestamp() + make_interval(secs => lease_s))
          on conflict (job) do update set queue = excluded.queue, priority = excluded.priority, message = excluded.message,
            taken_at = excluded.taken_at, worker = excluded.worker, token = excluded.token, until = excluded.until;
        taken := taken + 1;
        return next lease;
      elsif mate_task is not null then
        return;
      else  -- none of ours: kept for a look, out of the way of the others
        update task set queue = 'set aside' where id = message.id;
        raise warning 'message % of the % queue names no queued job: it is set aside', message.id, queue_;
      end if;
    end loop;
    if looked = 0 or mate_task is not null then
      below := class;
    end if;
  end loop;
end $$;

create function release_job(job_ text, state_ text) returns void language plpgsql as $$
begin
  delete from claim where job = job_;
  if state_ = 'done' then  -- a failed or cancelled job keeps its payload and its checkpoints, as it may be retried
    delete from blob where job = job_ and role = 'request';
    delete from checkpoint where job = job_;
  end if;
end $$;

create function end_job(job_ text, token_ bigint, state_ text, result_ text, error_ text) returns boolean language plpgsql as $$
begin
  delete from claim where job = job_ and token = token_;
  update job set state = state_, result = result_, error = error_, finished_at = greatest(unix_now(), started_at), message = null
    where id = job_ and token = token_ and state = 'running';
  if not found then
    return false;
  end if;
  perform release_job(job_, state_);
  return true;
end $$;

create function put_back_job(job_ text, token_ bigint, count_ integer) returns text language plpgsql as $$
declare
  claimed claim%rowtype;
begin
  delete from claim where job = job_ and token = token_ returning * into claimed;
  if not found then
    return null;
  end if;
  insert into task (id, queue, job, priority) values (claimed.message, claimed.queue, job_, claimed.priority);
  update job set state = 'queued', started_at = null, attempts = attempts - case when count_ = 0 then 1 else 0 end where id = job_;
  return claimed.queue;
end $$;

create function cancel_job(job_ text) returns text language plpgsql as $$
declare
  row_ job%rowtype;
begin
  select * into row_ from job where id = job_;
  if not found then
    return null;
  end if;
  perform 1 from task where id = row_.message for update;
  select * into row_ from job where id = job_ for update;
  if row_.state = 'queued' then
    delete from task where id = row_.message;
    update job set state = 'cancelled', cancel = 1, finished_at = unix_now(), message = null where id = job_;
    return 'cancelled';
  elsif row_.state = 'running' then
    update job set cancel = 1 where id = job_;
  end if;
  return row_.state;
end $$;

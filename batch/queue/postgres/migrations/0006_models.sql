-- Models besides a kind's own: a job names the one it is for, a worker the queue it serves. Classes are paused by kind.
alter table job add column model text not null default '';
alter table node add column queue text not null default '';

create or replace function take_jobs(
  queue_ text, worker_ text, above_ double precision, limit_ integer, mate_task text, mate_taken_at double precision,
  lease_s double precision) returns setof job language plpgsql as $$
declare
  kind_ text := split_part(queue_, ':', 1);
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
    if exists (select 1 from pause p where p.kind = kind_ and p.priority = class) then
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

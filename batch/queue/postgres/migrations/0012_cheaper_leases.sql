-- A take's statements are planned once a connection: the plans are the same whatever its arguments are, and planning anew for each
-- costs more than a quarter of the whole take.
alter function lease_jobs(text, text, double precision, integer, text, double precision, double precision, double precision)
  set plan_cache_mode = force_generic_plan;

-- As before, but that the claim is deleted once, and nothing is called for it.
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
  if state_ = 'done' then  -- a failed or cancelled job keeps its payload and its checkpoints, as it may be retried
    delete from blob where job = job_ and role = 'request';
    delete from checkpoint where job = job_;
  end if;
  return true;
end $$;

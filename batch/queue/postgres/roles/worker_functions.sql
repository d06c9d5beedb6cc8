-- All that a worker's role may do: the functions called worker_…, which run with the owner's rights. Each makes sure by the
-- worker's secret, of which only a hash is its id, that the worker writes for leases of its own and reads nobody else's jobs.
-- Carried out again at the end of every migration, so a release that changes this file has a migration. What a worker of the
-- version before calls stays.

create or replace function check_argument(is_valid boolean, name text) returns void language plpgsql as $$
begin
  if is_valid is not true then
    raise exception 'argument % is not valid', name using errcode = 'invalid_parameter_value';
  end if;
end $$;

-- The id under which a worker is known. Nobody gets from it to the secret.
create or replace function id_of_worker(secret text) returns text language plpgsql immutable as $$
begin
  perform check_argument(length(secret) between 16 and 128, 'secret');
  return left(encode(sha256(convert_to(secret, 'UTF8')), 'hex'), 24);
end $$;

-- In PL/pgSQL, as are all that each job passes: what SQL functions say is planned anew at every call.
create or replace function is_held(job_ text, token_ bigint, worker_ text) returns boolean language plpgsql stable as $$
begin
  return exists (select 1 from claim c where c.job = job_ and c.token = token_ and c.worker = worker_);
end $$;

-- Known to the worker that has the lease, and to fronts.
create or replace function lease_key(job_ text, token_ bigint, worker_ text) returns text language plpgsql stable as $$
declare
  root lease_root%rowtype;
begin
  select * into root from lease_root;  -- by itself, so that its plan is made once
  return encode(
    sha256(root.outer_key || sha256(root.inner_key || convert_to(job_ || ':' || token_ || ':' || worker_, 'UTF8'))), 'hex');
end $$;

create or replace function worker_schema_version() returns integer language sql stable as $$
  select coalesce(max(version), 0) from batch_schema $$;

-- The way of a job

create or replace function worker_take(
  queue_ text, secret text, above_ double precision, limit_ integer, mate_task text, mate_taken_at double precision,
  lease_s double precision, waited_s double precision)
  returns table (leased job, free_in_s double precision, key text) language plpgsql as $$
begin
  perform check_argument(length(queue_) between 1 and 200 and queue_ <> 'set aside', 'queue');
  perform check_argument(limit_ between 1 and 10000, 'limit');
  perform check_argument(lease_s > 0 and lease_s <= 600, 'lease');
  return query select l.leased, l.free_in_s, lease_key((l.leased).id, (l.leased).token, id_of_worker(secret))
    from lease_jobs(queue_, id_of_worker(secret), above_, limit_, mate_task, mate_taken_at, lease_s, waited_s) as l;
end $$;

create or replace function worker_end(
  secret text, jobs text[], tokens bigint[], states text[], results text[], errors text[]) returns setof boolean
  language plpgsql as $$
declare
  worker_ text := id_of_worker(secret);
begin
  for place in 1 .. coalesce(array_length(jobs, 1), 0) loop
    perform check_argument(states[place] in ('done', 'failed', 'cancelled'), 'state');
    if is_held(jobs[place], tokens[place], worker_) then
      return next end_job(jobs[place], tokens[place], states[place], results[place], errors[place]);
    else
      return next false;
    end if;
  end loop;
end $$;

create or replace function worker_put_back(secret text, job_ text, token_ bigint, count_ integer) returns text
  language plpgsql as $$
begin
  if not is_held(job_, token_, id_of_worker(secret)) then
    return null;
  end if;
  return put_back_job(job_, token_, count_);
end $$;

create or replace function worker_progress(secret text, job_ text, token_ bigint, progress_ text) returns void
  language plpgsql as $$
begin
  perform check_argument(length(progress_) <= 2000, 'progress');
  if is_held(job_, token_, id_of_worker(secret)) then
    update job set progress = progress_ where id = job_ and token = token_;
  end if;
end $$;

-- Shared: it cannot be given to another worker before this is committed.
create or replace function hold_lease(secret text, job_ text, token_ bigint) returns boolean language plpgsql as $$
begin
  perform 1 from claim where job = job_ and token = token_ and worker = id_of_worker(secret) for share;
  return found;
end $$;

create or replace function worker_checkpoint(secret text, job_ text, token_ bigint, step_ integer, data_ text) returns boolean
  language plpgsql as $$
begin
  perform check_argument(step_ >= 0 and octet_length(data_) <= 64 << 20, 'checkpoint');
  if not hold_lease(secret, job_, token_) then
    return false;
  end if;
  insert into checkpoint values (job_, step_, data_) on conflict (job, step) do update set data = excluded.data;
  return true;
end $$;

create or replace function worker_checkpoints(secret text, job_ text, token_ bigint) returns setof text language plpgsql as $$
begin
  if is_held(job_, token_, id_of_worker(secret)) then
    return query select c.data from checkpoint c where c.job = job_ order by c.step;
  end if;
end $$;

create or replace function worker_refer(secret text, job_ text, token_ bigint, sha256_ text) returns boolean
  language plpgsql as $$
begin
  perform check_argument(sha256_ ~ '^[0-9a-f]{64}$', 'sha256');
  if not hold_lease(secret, job_, token_) then
    return false;
  end if;
  insert into blob values (job_, sha256_, 'result') on conflict do nothing;
  return true;
end $$;

-- Of a job whose id is known: whether somebody wants it stopped.
create or replace function worker_cancelled(job_ text) returns boolean language plpgsql stable as $$
begin
  return coalesce((select cancel <> 0 from job where id = job_), false);
end $$;

create or replace function worker_fold(most integer) returns boolean language plpgsql as $$
begin
  perform check_argument(most between 1 and 100000, 'most');
  return fold_state_changes(most);
end $$;

-- Leases of workers that died or fell silent. In `error_`, {job} and {attempts} stand for what they say.

-- `waits`: for a job that is being written this moment, by a worker that was cut off or frozen in the middle of that, say; else
-- it is left for a later look, so that whoever looks keeps its own leases meanwhile.
create or replace function give_back_leases(
  jobs text[], tokens bigint[], have_inner boolean[], attempts_ integer, error_ text, waits boolean)
  returns table (job text, state text, queue text) language plpgsql as $$
declare
  row_ record;
begin
  for place in 1 .. coalesce(array_length(jobs, 1), 0) loop
    job := jobs[place];
    queue := null;
    if not waits then
      perform 1 from job j where j.id = jobs[place] for update skip locked;
      continue when not found and exists (select 1 from job j where j.id = jobs[place]);
    end if;
    select j.attempts, j.cancel into row_ from job j where j.id = jobs[place] and j.state = 'running' for update;
    if not found then
      delete from claim c where c.job = jobs[place] and c.token = tokens[place];
      continue;
    elsif row_.cancel <> 0 then
      perform end_job(jobs[place], tokens[place], 'cancelled', null, null);
      state := 'cancelled';
    elsif row_.attempts >= attempts_ and not have_inner[place] then
      perform end_job(jobs[place], tokens[place], 'failed', null,
        replace(replace(error_, '{job}', jobs[place]), '{attempts}', row_.attempts::text));
      state := 'failed';
    else
      queue := put_back_job(jobs[place], tokens[place], (not have_inner[place])::integer);
      state := 'queued';
    end if;
    return next;
  end loop;
end $$;

-- A job that only waited while a more urgent one ran inside it is not blamed.
create or replace function has_inner(c claim) returns boolean language sql stable as $$
  select exists (select 1 from claim i where i.worker = c.worker and i.queue = c.queue and i.token > c.token
    and i.taken_at <> c.taken_at) $$;

create or replace function recover_leases(queue_ text, worker_ text, predecessor text, attempts_ integer, error_ text)
  returns table (job text, state text, queue text) language plpgsql as $$
declare
  jobs text[];
  tokens bigint[];
  inner_ boolean[];
begin
  select array_agg(held.job::text), array_agg(held.token), array_agg(held.has_inner) into jobs, tokens, inner_ from (
    select c.job, c.token, has_inner(c) as has_inner from claim c
    where c.queue = queue_ and c.worker = predecessor and c.worker <> worker_ for update of c) as held;
  return query select * from give_back_leases(jobs, tokens, inner_, attempts_, error_, true);
  -- Only now: what it was decides which workers its jobs are kept for.
  delete from node n where n.id = predecessor and n.id <> worker_;
end $$;

-- After a restart of the database nobody could renew a lease: all get their length once more.
create or replace function reap_leases(attempts_ integer, most integer, lease_s double precision, error_ text)
  returns table (job text, state text, queue text) language plpgsql as $$
declare
  jobs text[];
  tokens bigint[];
  inner_ boolean[];
begin
  if not exists (select 1 from claim c where c.until < clock_timestamp())
    or clock_timestamp() <= pg_postmaster_start_time() + make_interval(secs => lease_s) then
    return;
  end if;
  select array_agg(held.job::text), array_agg(held.token), array_agg(held.has_inner) into jobs, tokens, inner_ from (
    select c.job, c.token, has_inner(c) as has_inner from claim c where c.until < clock_timestamp()
    order by c.until limit most for update of c skip locked) as held;
  return query select * from give_back_leases(jobs, tokens, inner_, attempts_, error_, false);
end $$;

create or replace function worker_recover(secret text, queue_ text, predecessor_secret text, attempts_ integer, error_ text)
  returns table (job text, state text, queue text) language plpgsql as $$
begin
  perform check_argument(attempts_ >= 1, 'attempts');
  perform check_argument(length(error_) <= 4000, 'error');
  return query select * from recover_leases(queue_, id_of_worker(secret), id_of_worker(predecessor_secret), attempts_, error_);
end $$;

create or replace function worker_reap(attempts_ integer, most integer, lease_s double precision, forget_s double precision,
  error_ text) returns table (job text, state text, queue text) language plpgsql as $$
begin
  perform check_argument(attempts_ >= 1, 'attempts');
  perform check_argument(most between 1 and 1000, 'most');
  perform check_argument(length(error_) <= 4000, 'error');
  perform check_argument(forget_s >= 60, 'forget');
  if exists (select 1 from node n where n.beat < clock_timestamp() - make_interval(secs => forget_s)) then
    delete from node n where n.beat < clock_timestamp() - make_interval(secs => forget_s);
  end if;
  return query select * from reap_leases(attempts_, most, lease_s, error_);
end $$;

-- The worker's own row. `fields` are its columns; which there are is the table's matter.

create or replace function worker_register(secret text, fields jsonb) returns void language plpgsql as $$
declare
  columns text;
  changes text;
begin
  perform check_argument(octet_length(fields::text) <= 4 << 20, 'fields');
  fields := fields - 'id' - 'beat' - 'is_draining';
  select string_agg(quote_ident(a.attname), ', ' order by a.attnum),
      string_agg(format('%1$I = excluded.%1$I', a.attname), ', ' order by a.attnum) into columns, changes
    from pg_attribute a where a.attrelid = 'node'::regclass and a.attnum > 0 and not a.attisdropped and fields ? a.attname;
  execute format(
    'insert into node (id, %s) select $1, %s from jsonb_populate_record(null::node, $2) on conflict (id) do update set %s, '
    'beat = clock_timestamp()', columns, columns, changes) using id_of_worker(secret), fields;
end $$;

create or replace function worker_leave(secret text) returns void language sql as $$
  delete from node where id = id_of_worker(secret) $$;

create or replace function worker_renew(
  secret text, jobs text[], tokens bigint[], lease_s double precision, prefixes_ text)
  returns table (renewed text[], cancelled text[], draining integer) language plpgsql as $$
declare
  worker_ text := id_of_worker(secret);
begin
  perform check_argument(lease_s > 0 and lease_s <= 600, 'lease');
  perform check_argument(prefixes_ is null or octet_length(prefixes_) <= 1 << 20, 'prefixes');
  return query with
    mine as (select m.job, m.token from unnest(jobs, tokens) as m (job, token)),
    kept as (update claim c set until = clock_timestamp() + make_interval(secs => lease_s) from mine m
      where c.job = m.job and c.token = m.token and c.worker = worker_ returning c.job),
    beat as (update node n set beat = clock_timestamp(), prefixes = coalesce(prefixes_, n.prefixes) where n.id = worker_ returning n.is_draining)
    select array(select k.job::text from kept k),
      array(select j.id::text from job j join kept k on j.id = k.job where j.cancel <> 0),
      (select b.is_draining from beat b);
end $$;

-- Payloads: what a job needs that the worker has the lease of, and what was put in a moment ago, as a question's picture is.

create or replace function may_read_payload(secret text, sha256_ text) returns boolean language sql stable as $$
  select exists (select 1 from blob b join claim c on c.job = b.job
      where b.sha256 = sha256_ and b.role = 'request' and c.worker = id_of_worker(secret))
    or exists (select 1 from payload p where p.sha256 = sha256_ and p.part = 0
      and p.created_at > clock_timestamp() - interval '60 seconds')
    or exists (select 1 from payload_object o where o.sha256 = sha256_ and o.is_whole
      and o.created_at > clock_timestamp() - interval '60 seconds') $$;

create or replace function worker_find_object(secret text, sha256_ text) returns table (place text, key text)
  language plpgsql stable as $$
begin
  if may_read_payload(secret, sha256_) then
    return query select o.place, o.key from payload_object o where o.sha256 = sha256_ and o.is_whole;
  end if;
end $$;

-- What was read is not what its name says: whoever keeps the same bytes again writes them anew.
create or replace function worker_mark_damaged(secret text, sha256_ text) returns void language plpgsql as $$
begin
  if may_read_payload(secret, sha256_) then
    update payload set created_at = '-infinity' where sha256 = sha256_;
    update payload_object set is_whole = false where sha256 = sha256_;
  end if;
end $$;

create or replace function worker_read_payload(secret text, sha256_ text, part_ integer) returns bytea language plpgsql as $$
begin
  if not may_read_payload(secret, sha256_) then
    return null;
  end if;
  return (select p.data from payload p where p.sha256 = sha256_ and p.part = part_);
end $$;

-- A result's bytes, part by part, for a worker that holds a job. What is there stays as it is.
create or replace function worker_touch_payload(secret text, sha256_ text) returns boolean language plpgsql as $$
begin
  perform check_argument(exists (select 1 from claim c where c.worker = id_of_worker(secret)), 'secret');
  update payload set created_at = now() where sha256 = sha256_;
  return found;
end $$;

create or replace function worker_write_payload(secret text, sha256_ text, part_ integer, data_ bytea) returns void
  language plpgsql as $$
begin
  perform check_argument(sha256_ ~ '^[0-9a-f]{64}$', 'sha256');
  perform check_argument(part_ between 0 and 4095 and octet_length(data_) <= 1 << 20, 'part');
  perform check_argument(exists (select 1 from claim c where c.worker = id_of_worker(secret)), 'secret');
  insert into payload as p (sha256, part, data, created_at) values (sha256_, part_, data_, clock_timestamp())
    on conflict (sha256, part) do update set created_at = clock_timestamp(),
      data = case when p.created_at = '-infinity' then excluded.data else p.data end;
end $$;

-- Whether a payload is whole; it stays until the transaction is over then.
create or replace function worker_lock_payload(secret text, sha256_ text) returns boolean language plpgsql as $$
begin
  perform check_argument(exists (select 1 from claim c where c.worker = id_of_worker(secret)), 'secret');
  perform 1 from payload where sha256 = sha256_ and part = 0 and created_at > '-infinity' for key share;
  if not found then
    perform 1 from payload_object where sha256 = sha256_ and is_whole for key share;
  end if;
  return found;
end $$;

-- Which parts behind the first are there; as if they had been put in now.
create or replace function worker_touch_parts(secret text, sha256_ text) returns integer[] language plpgsql as $$
declare
  parts integer[];
begin
  perform check_argument(exists (select 1 from claim c where c.worker = id_of_worker(secret)), 'secret');
  with touched as (update payload p set created_at = clock_timestamp() where (p.sha256, p.part) in (
      select w.sha256, w.part from payload w where w.sha256 = sha256_ and w.part > 0 and w.created_at > '-infinity'
      order by w.part for update) returning p.part)
    select coalesce(array_agg(t.part), '{}') into parts from touched t;
  return parts;
end $$;

create or replace function worker_begin_object(secret text, sha256_ text, place_ text, key_ text)
  returns table (place text, key text, is_whole boolean) language plpgsql as $$
begin
  perform check_argument(sha256_ ~ '^[0-9a-f]{64}$', 'sha256');
  perform check_argument(place_ ~ '^s3://' and length(place_) <= 1000, 'place');
  perform check_argument(key_ ~ ('^' || left(sha256_, 2) || '/' || sha256_ || '-[0-9a-f]{8}$'), 'key');
  perform check_argument(exists (select 1 from claim c where c.worker = id_of_worker(secret)), 'secret');
  return query insert into payload_object as o (sha256, place, key) values (sha256_, place_, key_)
    on conflict (sha256) do update set created_at = clock_timestamp() returning o.place, o.key, o.is_whole;
end $$;

create or replace function worker_finish_object(secret text, sha256_ text, place_ text, key_ text) returns boolean
  language plpgsql as $$
begin
  perform check_argument(exists (select 1 from claim c where c.worker = id_of_worker(secret)), 'secret');
  update payload_object o set is_whole = true, created_at = clock_timestamp()
    where o.sha256 = sha256_ and o.place = place_ and o.key = key_;
  if not found then
    perform check_argument(place_ ~ '^s3://' and key_ ~ ('^[0-9a-f]{2}/' || sha256_ || '-[0-9a-f]{8}$'), 'key');
    insert into payload_garbage values (place_, key_) on conflict do nothing;
    return false;
  end if;
  return true;
end $$;

-- Packets too large for a notification.

create or replace function worker_send_frame(target_ text, data_ bytea) returns bigint language plpgsql as $$
declare
  id_ bigint;
begin
  perform check_argument(length(target_) between 1 and 64, 'target');
  perform check_argument(octet_length(data_) <= 16 << 20, 'data');
  insert into frame (target, data) values (target_, data_) returning id into id_;
  return id_;
end $$;

create or replace function worker_take_frame(id_ bigint, target_ text) returns bytea language plpgsql as $$
declare
  data_ bytea;
begin
  delete from frame where id = id_ and target = target_ returning data into data_;
  return data_;
end $$;

create or replace function worker_sweep_frames(older_than_s double precision) returns void language plpgsql as $$
begin
  perform check_argument(older_than_s >= 60, 'older_than');
  delete from frame where created_at < now() - make_interval(secs => older_than_s);
end $$;

-- What a worker's machine asks every few seconds: which fronts it may dial. Before, it writes down by what it will prove itself,
-- once for each row of its home, so that nobody who learns of a home can put another nonce in place of its own.

create or replace function worker_ports(home_ text, nonce_ text, lease_s double precision, port_life_s double precision)
  returns table (front text, address text, cert_sha256 text) language plpgsql as $$
begin
  perform check_argument(length(home_) between 1 and 64, 'home');
  perform check_argument(length(nonce_) between 32 and 128, 'nonce');
  update node n set nonce = nonce_ where n.home = home_ and n.nonce is null;
  return query select p.front::text, p.address, p.cert_sha256 from worker_port p
    where p.front <> home_ and p.beat > clock_timestamp() - make_interval(secs => port_life_s)
    and exists (select 1 from node n where n.home = home_ and n.beat > clock_timestamp() - make_interval(secs => lease_s))
    order by p.front;
end $$;

-- The rights of roles, given again after every migration.

create or replace function grant_rights() returns void language plpgsql as $$
declare
  schema_ text := current_schema();
  role_ record;
  object record;
begin
  for object in select p.oid::regprocedure as name from pg_proc p
    where p.pronamespace = schema_::regnamespace and p.proname like 'worker\_%' loop
    execute format('alter function %s security definer set search_path = %I, pg_temp', object.name, schema_);
    execute format('revoke all on function %s from public', object.name);
  end loop;
  for role_ in select g.name, g.rights from granted_role g join pg_roles r on r.rolname = g.name loop
    execute format('grant usage on schema %I to %I', schema_, role_.name);
    for object in select p.oid::regprocedure as name from pg_proc p where p.pronamespace = schema_::regnamespace
      and pg_has_role(p.proowner, 'USAGE') and (role_.rights = 'front' or p.proname like 'worker\_%') loop
      execute format('grant execute on function %s to %I', object.name, role_.name);
    end loop;
    for object in select c.oid::regclass as name, c.relname, c.relkind from pg_class c
      where c.relnamespace = schema_::regnamespace and c.relkind in ('r', 'p', 'v', 'S') and pg_has_role(c.relowner, 'USAGE') loop
      if role_.rights = 'worker' then
        execute format('revoke all on %s %s from %I', case object.relkind when 'S' then 'sequence' else 'table' end,
          object.name, role_.name);
      elsif object.relkind = 'S' then
        execute format('grant usage, select on sequence %s to %I', object.name, role_.name);
      elsif object.relname in ('batch_schema', 'granted_role', 'lease_root') then
        execute format('grant select on table %s to %I', object.name, role_.name);
      else
        execute format('grant select, insert, update, delete on table %s to %I', object.name, role_.name);
      end if;
    end loop;
    -- Tables that come later, as those of a search index that is made anew.
    if role_.rights = 'front' then
      execute format('alter default privileges in schema %I grant select, insert, update, delete on tables to %I',
        schema_, role_.name);
      execute format('alter default privileges in schema %I grant usage, select on sequences to %I', schema_, role_.name);
    end if;
  end loop;
end $$;
select grant_rights();

-- What a client's Idempotency-Key stands for: the jobs of the first request, in order, and a digest of that request.
create table idempotency (
  kind text not null, key text not null, place integer not null, fingerprint text not null, job text not null,
  primary key (kind, key, place)) without rowid;
create index idempotency_job on idempotency (job);
create trigger job_delete_key after delete on job begin
  delete from idempotency where job = old.id;
end;

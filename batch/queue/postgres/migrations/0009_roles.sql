-- Who may do what: roles that have rights here besides the owner, which gets its rights from grant_rights() in
-- roles/worker_functions.sql.
create table granted_role (name text primary key, rights text not null check (rights in ('front', 'worker')));
-- From it comes a key for each lease, by which a worker proves its words to the front that accepted the job.
create table lease_root (one integer primary key check (one = 1), outer_key bytea not null, inner_key bytea not null);
insert into lease_root values (
  1, sha256(convert_to(gen_random_uuid()::text || gen_random_uuid(), 'UTF8')),
  sha256(convert_to(gen_random_uuid()::text || gen_random_uuid(), 'UTF8')));

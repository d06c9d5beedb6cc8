-- Leases run out unless they are renewed, and each worker has a row that says what it is and how it is.
alter table claim add column until real not null default 0;
create table node (
  id text primary key, kind text not null, status text not null, model text not null, build text not null,
  version text not null, info text not null, error text not null, home text not null, pid integer not null,
  started_at real not null, beat real not null, is_draining integer not null default 0) without rowid;

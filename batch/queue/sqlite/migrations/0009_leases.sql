-- A take is a lease: who holds it (a worker's id, random at its start), and a token by which a late write is refused.
-- `front` is the service that accepted a job; a service that starts cancels requests of its own predecessor only.
alter table job add column front text not null default '';
alter table job add column token integer not null default 0;
alter table claim add column worker text not null default '';
alter table claim add column token integer not null default 0;

-- Models besides a kind's own: a job names the one it is for, a worker the queue it serves.
alter table job add column model text not null default '';
alter table node add column queue text not null default '';

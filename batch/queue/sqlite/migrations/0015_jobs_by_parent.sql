-- The jobs of a batch, the newest first, are a walk along this index, however many there are.
drop index job_parent;
create index job_parent on job (parent, id) where parent is not null;

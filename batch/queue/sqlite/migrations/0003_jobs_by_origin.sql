-- Every list of jobs by model, state and origin is a walk along this index, however many others there are.
drop index job_kind_state;
create index job_kind_state_origin on job (kind, state, origin, id);

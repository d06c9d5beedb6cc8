-- A crash or a failover may lose takes that were not on the disk yet, and the sequence's steps with them: it draws the same
-- numbers again, maybe for the same job. What is drawn by chance beside it tells the two leases apart.
create function draw_token() returns trigger language plpgsql as $$
begin
  new.token := (new.token << 20) | floor(random() * 1048576)::bigint;
  return new;
end $$;
create trigger job_token before update of token on job for each row execute function draw_token();

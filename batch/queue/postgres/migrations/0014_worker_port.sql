-- Where fronts are dialled by workers, and by which certificate those know them. No row of `node`, as a batch of the version
-- before reads each of those as a worker.
create table worker_port (
  front word primary key, address text not null, cert_sha256 text not null, beat timestamptz not null default clock_timestamp());

-- What a front asks when a machine dials it.
create function nonces_of_home(home_ text, lease_s double precision) returns setof text language sql stable as $$
  select n.nonce from node n where n.home = home_ and n.nonce is not null
    and n.beat > clock_timestamp() - make_interval(secs => lease_s)
$$;

create function announce_port(front_ text, address_ text, cert_sha256_ text, port_life_s double precision) returns void
  language sql as $$
  delete from worker_port where beat < clock_timestamp() - make_interval(secs => port_life_s * 20);
  insert into worker_port (front, address, cert_sha256) values (front_, address_, cert_sha256_)
    on conflict (front) do update
    set address = excluded.address, cert_sha256 = excluded.cert_sha256, beat = clock_timestamp();
$$;

create function withdraw_port(front_ text) returns void language sql as $$
  delete from worker_port where front = front_;
$$;

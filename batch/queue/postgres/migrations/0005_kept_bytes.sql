-- As SQLite's migration of that name: what files and parts take, what an upload has, keys of batches.
create table file_bytes (one integer primary key check (one = 1), n bigint not null);
insert into file_bytes select 1, coalesce(sum(bytes), 0) from (select max(bytes) as bytes from
  (select sha256, bytes from stored_file union all select sha256, bytes from upload_part) as a group by sha256) as b;
-- Triggers run behind the statement, so that they cannot ask whether a row was the last with its content: holders are counted.
create table stored_content (sha256 word primary key, holders bigint not null);
insert into stored_content select sha256, count(*) from
  (select sha256 from stored_file union all select sha256 from upload_part) as a group by sha256;
create function kept_bytes_counted() returns trigger language plpgsql as $$
declare
  now_held bigint;
begin
  if tg_op = 'INSERT' then
    insert into stored_content as c values (new.sha256, 1)
      on conflict (sha256) do update set holders = c.holders + 1 returning c.holders into now_held;
    if now_held = 1 then
      update file_bytes set n = n + new.bytes;
    end if;
  else
    update stored_content set holders = holders - 1 where sha256 = old.sha256 returning holders into now_held;
    if now_held = 0 then
      delete from stored_content where sha256 = old.sha256;
      update file_bytes set n = n - old.bytes;
    end if;
  end if;
  return null;
end $$;
create trigger stored_file_bytes after insert or delete on stored_file for each row execute function kept_bytes_counted();
create trigger upload_part_bytes after insert or delete on upload_part for each row execute function kept_bytes_counted();
alter table upload add column part_count bigint not null default 0, add column part_bytes bigint not null default 0;
update upload u set part_count = (select count(*) from upload_part p where p.upload = u.id),
  part_bytes = (select coalesce(sum(p.bytes), 0) from upload_part p where p.upload = u.id);
create function upload_part_counted() returns trigger language plpgsql as $$
begin
  update upload set part_count = part_count + 1, part_bytes = part_bytes + new.bytes where id = new.upload;
  return null;
end $$;
create trigger upload_part_count after insert on upload_part for each row execute function upload_part_counted();
alter table batch add column request_key word, add column request_fingerprint word,
  add column requests bigint not null default 0, add column tasks bigint not null default 0;
update batch set tasks = total;
create unique index batch_request_key on batch (api, request_key) where request_key is not null;
drop index notification_delivery_due;
create index notification_delivery_due on notification_delivery (target, next_attempt_at) where state = 'pending';

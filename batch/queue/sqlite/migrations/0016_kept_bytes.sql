-- How many bytes uploaded files, and parts that are not yet one, take; shared content counts once. What a quota looks at costs
-- one row to read, and so does what an upload has so far.
create table file_bytes (one integer primary key check (one = 1), n integer not null);
create index stored_file_sha256 on stored_file (sha256);
create index upload_part_sha256 on upload_part (sha256);
insert into file_bytes select 1, coalesce(sum(bytes), 0) from (select max(bytes) bytes from
  (select sha256, bytes from stored_file union all select sha256, bytes from upload_part) group by sha256);
create trigger stored_file_bytes_insert after insert on stored_file
  when not exists (select 1 from stored_file where sha256 = new.sha256 and id <> new.id)
  and not exists (select 1 from upload_part where sha256 = new.sha256) begin
  update file_bytes set n = n + new.bytes;
end;
create trigger stored_file_bytes_delete after delete on stored_file
  when not exists (select 1 from stored_file where sha256 = old.sha256)
  and not exists (select 1 from upload_part where sha256 = old.sha256) begin
  update file_bytes set n = n - old.bytes;
end;
create trigger upload_part_bytes_insert after insert on upload_part
  when not exists (select 1 from upload_part where sha256 = new.sha256 and id <> new.id)
  and not exists (select 1 from stored_file where sha256 = new.sha256) begin
  update file_bytes set n = n + new.bytes;
end;
create trigger upload_part_bytes_delete after delete on upload_part
  when not exists (select 1 from upload_part where sha256 = old.sha256)
  and not exists (select 1 from stored_file where sha256 = old.sha256) begin
  update file_bytes set n = n - old.bytes;
end;
alter table upload add column part_count integer not null default 0;
alter table upload add column part_bytes integer not null default 0;
update upload set part_count = (select count(*) from upload_part where upload = upload.id),
  part_bytes = (select coalesce(sum(bytes), 0) from upload_part where upload = upload.id);
create trigger upload_part_count after insert on upload_part begin
  update upload set part_count = part_count + 1, part_bytes = part_bytes + new.bytes where id = new.upload;
end;
-- A batch that was created under an Idempotency-Key is found again by it; what is counted while it is read survives a restart.
alter table batch add column request_key text;
alter table batch add column request_fingerprint text;
alter table batch add column requests integer not null default 0;
alter table batch add column tasks integer not null default 0;
update batch set tasks = total;
create unique index batch_request_key on batch (api, request_key) where request_key is not null;
-- Each receiver of notifications has a line of its own.
drop index notification_delivery_due;
create index notification_delivery_due on notification_delivery (target, next_attempt_at) where state = 'pending';

-- Bytes of files and parts lie in the spool, where rows of `blob` under their ids keep them, and under a batch's its input.
create table stored_file (
  sequence integer primary key autoincrement, id text not null unique, purpose text not null, filename text not null,
  bytes integer not null, sha256 text not null, created_at integer not null, expires_at integer);
create index stored_file_purpose on stored_file (purpose, sequence);
create index stored_file_expires on stored_file (expires_at) where expires_at is not null;
create trigger stored_file_delete after delete on stored_file begin
  delete from blob where job = old.id;
end;

create table upload (
  id text primary key, filename text not null, bytes integer not null, purpose text not null, mime_type text not null,
  status text not null, created_at integer not null, expires_at integer not null, file text, file_lifetime_s integer)
  without rowid;
create table upload_part (
  id text primary key, upload text not null, sha256 text not null, bytes integer not null, created_at integer not null)
  without rowid;
create index upload_part_upload on upload_part (upload);
create trigger upload_part_delete after delete on upload_part begin
  delete from blob where job = old.id;
end;

create table batch (
  sequence integer primary key autoincrement, id text not null unique, api text not null, endpoint text not null,
  input_file text, input_sha256 text not null, input_bytes integer not null, completion_window text not null,
  status text not null, created_at integer not null, in_progress_at integer, expires_at integer, finalizing_at integer,
  completed_at integer, failed_at integer, expired_at integer, cancelling_at integer, cancelled_at integer,
  metadata text, output_lifetime_s integer, priority integer not null, model text, errors text,
  read_bytes integer not null default 0, read_lines integer not null default 0,
  total integer not null default 0, completed integer not null default 0, failed integer not null default 0,
  lost integer not null default 0,
  output_bytes integer not null default 0, error_bytes integer not null default 0, output_file text, error_file text,
  input_tokens integer not null default 0, cached_tokens integer not null default 0,
  output_tokens integer not null default 0, reasoning_tokens integer not null default 0);
create index batch_status on batch (status, sequence);
create trigger batch_delete after delete on batch begin
  delete from blob where job = old.id;
  delete from batch_line where batch = old.sequence;
end;

create table batch_line (
  batch integer not null, line integer not null, custom_id text not null, start integer not null, length integer not null,
  prefix text not null default '', state text not null, job text, request_id text not null,
  primary key (batch, line)) without rowid;
create unique index batch_line_custom_id on batch_line (batch, custom_id);
create index batch_line_state on batch_line (batch, state, prefix, line);
create index batch_line_job on batch_line (job) where job is not null;

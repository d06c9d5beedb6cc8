-- Files that a batch's lines name: they can be read until it ends, also once their client has deleted them. Their bytes are
-- held by rows of `blob` under the batch's id, as its input is.
create table batch_file (
  batch integer not null, file text not null, filename text not null, bytes integer not null, sha256 text not null,
  primary key (batch, file)) without rowid;
create index batch_file_file on batch_file (file);
drop trigger batch_delete;
create trigger batch_delete after delete on batch begin
  delete from blob where job = old.id;
  delete from batch_line where batch = old.sequence;
  delete from batch_file where batch = old.sequence;
end;

-- Payloads that lie in an object store, so that nothing is ever there that the database does not know of: the row is written
-- before the object. `place` is the address that it was put under, `key` its name there, which no other object ever has;
-- `is_whole` says that all of it is there. What is to be deleted stands in payload_garbage until it is.
create table payload_object (
  sha256 word primary key, place text not null, key text not null, is_whole boolean not null default false,
  created_at timestamptz not null default clock_timestamp());
create table payload_garbage (place text not null, key text not null, primary key (place, key));

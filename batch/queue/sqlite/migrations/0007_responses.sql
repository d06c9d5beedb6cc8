create table item (id text primary key, data text not null) without rowid;
create trigger item_delete after delete on item begin
  delete from blob where job = old.id;
end;

create table response (
  sequence integer primary key autoincrement, id text not null unique, status text not null, data text not null,
  request text not null, created_at integer not null, used_at integer not null, expires_at integer, kept integer not null,
  background integer not null, streamed integer not null, conversation text, job text);
create index response_expires on response (expires_at) where expires_at is not null;
create index response_running on response (status) where status in ('queued', 'in_progress');
create index response_conversation on response (conversation) where conversation is not null;
create table response_item (
  response integer not null, place integer not null, item text not null, is_output integer not null,
  primary key (response, place)) without rowid;
create index response_item_item on response_item (item);
create table response_event (
  response integer not null, number integer not null, data text not null, primary key (response, number)) without rowid;
create trigger response_delete after delete on response begin
  delete from response_item where response = old.sequence;
  delete from response_event where response = old.sequence;
end;
create trigger response_item_delete after delete on response_item
  when not exists (select 1 from response_item where item = old.item)
  and not exists (select 1 from conversation_item where item = old.item) begin
  delete from item where id = old.item;
end;

create table conversation (id text primary key, created_at integer not null, metadata text not null) without rowid;
create table conversation_item (
  place integer primary key autoincrement, conversation text not null, item text not null, unique (conversation, item));
create index conversation_item_item on conversation_item (item);
create trigger conversation_delete after delete on conversation begin
  delete from conversation_item where conversation = old.id;
end;
create trigger conversation_item_delete after delete on conversation_item
  when not exists (select 1 from response_item where item = old.item)
  and not exists (select 1 from conversation_item where item = old.item) begin
  delete from item where id = old.item;
end;

create table chat_completion (
  sequence integer primary key autoincrement, id text not null unique, model text not null, metadata text not null,
  data text not null, messages text not null, created_at integer not null, expires_at integer);
create index chat_completion_model on chat_completion (model, sequence);
create index chat_completion_expires on chat_completion (expires_at) where expires_at is not null;

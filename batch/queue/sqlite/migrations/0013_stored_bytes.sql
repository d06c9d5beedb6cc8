-- How many bytes stored responses, items, event logs and chat completions take: what a cap looks at costs one row to read.
create table stored_bytes (one integer primary key check (one = 1), n integer not null);
insert into stored_bytes select 1,
  (select coalesce(sum(length(cast(data as blob)) + length(cast(request as blob))), 0) from response)
  + (select coalesce(sum(length(cast(data as blob))), 0) from item)
  + (select coalesce(sum(length(cast(data as blob))), 0) from response_event)
  + (select coalesce(sum(length(cast(data as blob)) + length(cast(messages as blob))), 0) from chat_completion);
create trigger response_bytes_insert after insert on response begin
  update stored_bytes set n = n + length(cast(new.data as blob)) + length(cast(new.request as blob));
end;
create trigger response_bytes_update after update of data on response begin
  update stored_bytes set n = n + length(cast(new.data as blob)) - length(cast(old.data as blob));
end;
create trigger response_bytes_delete after delete on response begin
  update stored_bytes set n = n - length(cast(old.data as blob)) - length(cast(old.request as blob));
end;
create trigger item_bytes_insert after insert on item begin
  update stored_bytes set n = n + length(cast(new.data as blob));
end;
create trigger item_bytes_update after update of data on item begin
  update stored_bytes set n = n + length(cast(new.data as blob)) - length(cast(old.data as blob));
end;
create trigger item_bytes_delete after delete on item begin
  update stored_bytes set n = n - length(cast(old.data as blob));
end;
create trigger response_event_bytes_insert after insert on response_event begin
  update stored_bytes set n = n + length(cast(new.data as blob));
end;
create trigger response_event_bytes_delete after delete on response_event begin
  update stored_bytes set n = n - length(cast(old.data as blob));
end;
create trigger chat_completion_bytes_insert after insert on chat_completion begin
  update stored_bytes set n = n + length(cast(new.data as blob)) + length(cast(new.messages as blob));
end;
create trigger chat_completion_bytes_delete after delete on chat_completion begin
  update stored_bytes set n = n - length(cast(old.data as blob)) - length(cast(old.messages as blob));
end;
create trigger chat_completion_delete after delete on chat_completion begin
  delete from blob where job = old.id;
end;
create index response_used on response (used_at);

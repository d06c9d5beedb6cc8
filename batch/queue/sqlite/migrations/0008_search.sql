-- The search index, in the queue's database: a result and its place in the index are one transaction.
create table entry (
  id integer primary key autoincrement, content text not null unique, sha256 text not null, kind text not null,
  language text, model text, created real not null);
create table entry_source (path blob primary key, entry integer not null) without rowid;
create table passage (
  id integer primary key autoincrement, entry integer not null, n integer not null, text text not null,
  char_start integer not null, start real, "end" real, times text);
create virtual table passage_fts using fts5(t, tokenize='unicode61 remove_diacritics 2 categories ''L* N* Co M*''');
create table vector (passage integer primary key, model text not null, v blob not null);

create table passage_removed (id integer primary key autoincrement, passage integer not null);
create table search_meta (version integer not null, segmenter text not null, generation integer not null);
insert into search_meta values (1, '', 0);

create index entry_source_entry on entry_source (entry);
create index passage_entry on passage (entry, n);
create index vector_model on vector (model);
create trigger vector_delete after delete on vector begin
  insert into passage_removed (passage) values (old.passage);
end;

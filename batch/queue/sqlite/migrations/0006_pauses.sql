-- Which classes of bulk work are held back.
create table pause (kind text not null, priority integer not null, primary key (kind, priority)) without rowid;

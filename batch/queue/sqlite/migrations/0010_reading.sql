-- How a text was got out of its file, as JSON.
alter table content add column reading text;

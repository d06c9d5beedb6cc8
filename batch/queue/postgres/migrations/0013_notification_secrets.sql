-- What an endpoint's events are signed with, by whichever front sends them.
create table notification_secret (target word primary key, secrets text not null);

-- up
create table lists (
  id integer primary key,
  name text not null unique
);

create table items (
  id integer primary key,
  list_id integer not null references lists (id) on delete cascade,
  title text not null,
  is_done boolean not null default false,
  position integer not null
);

create index items_by_list on items (list_id, position);

-- down
drop table items;
drop table lists;

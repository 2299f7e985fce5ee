-- up
create table lists (
  id bigint auto_increment primary key,
  name varchar(500) not null unique
);

create table items (
  id bigint auto_increment primary key,
  list_id bigint not null,
  title varchar(500) not null,
  is_done boolean not null default false,
  position integer not null,
  foreign key (list_id) references lists (id) on delete cascade
);

create index items_by_list on items (list_id, position);

-- down
drop table items;
drop table lists;

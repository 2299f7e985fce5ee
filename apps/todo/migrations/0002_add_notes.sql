-- up
alter table items add column note varchar(500);

-- down
alter table items drop column note;

#include "drivers/postgres/item.h"

#include "test.h"

/* A connection with nothing but its list. */
typedef struct fixture {
    fl_pg_line line;
    fl_pg_connection connection;
    fl_pg_item a, b, c;
} fixture;

static void set_up(fixture *self)
{
    memset(self, 0, sizeof(*self));
    self->connection.line = &self->line;
    self->connection.last = &self->connection.first;
}

static bool is_order(const fixture *self, const fl_pg_item *first, const fl_pg_item *second,
                     const fl_pg_item *third)
{
    const fl_pg_item *expected[] = {first, second, third}, *item = self->connection.first;
    fl_pg_item *const *link = &self->connection.first;
    for (int i = 0; i < 3 && expected[i]; i++, link = &item->next, item = item->next)
        if (item != expected[i] || item->link != link) return false;
    return !item && self->connection.last == link;
}

TEST(items_stand_in_the_order_in_which_they_come)
{
    fixture self;
    set_up(&self);
    fl_pg_item_insert(&self.connection, &self.a, NULL);
    fl_pg_item_insert(&self.connection, &self.b, NULL);
    CHECK(is_order(&self, &self.a, &self.b, NULL));
    CHECK(self.connection.unsent == &self.a);
    CHECK(self.connection.items == 2);
}

TEST(an_item_before_the_first_unsent_one_is_the_first_unsent_one)
{
    fixture self;
    set_up(&self);
    fl_pg_item_insert(&self.connection, &self.a, NULL);
    fl_pg_item_insert(&self.connection, &self.b, NULL);
    self.connection.unsent = &self.b; /* the first has been written */
    fl_pg_item_insert(&self.connection, &self.c, self.connection.unsent);
    CHECK(is_order(&self, &self.a, &self.c, &self.b));
    CHECK(self.connection.unsent == &self.c);
}

TEST(an_item_that_is_removed_is_neither_unsent_nor_the_writer)
{
    fixture self;
    set_up(&self);
    fl_pg_item_insert(&self.connection, &self.a, NULL);
    fl_pg_item_insert(&self.connection, &self.b, NULL);
    self.connection.writer = &self.a;
    fl_pg_item_remove(&self.connection, &self.a);
    CHECK(is_order(&self, &self.b, NULL, NULL));
    CHECK(self.connection.unsent == &self.b);
    CHECK(self.connection.writer == NULL);
    CHECK(self.a.link == NULL);
    fl_pg_item_remove(&self.connection, &self.b);
    CHECK(is_order(&self, NULL, NULL, NULL));
    CHECK(self.connection.unsent == NULL);
}

TEST(an_item_takes_another_ones_place_and_all_that_is_known_of_it)
{
    fixture self;
    set_up(&self);
    fl_pg_item_insert(&self.connection, &self.a, NULL);
    fl_pg_item_insert(&self.connection, &self.b, NULL);
    self.a.is_written = self.a.is_unwanted = true;
    self.a.began_at = 7;
    self.connection.unsent = &self.b;
    self.connection.writer = &self.a;
    fl_pg_item_replace(&self.connection, &self.a, &self.c);
    CHECK(is_order(&self, &self.c, &self.b, NULL));
    CHECK(self.c.is_written && self.c.is_unwanted && self.c.began_at == 7);
    CHECK(self.connection.writer == &self.c);
    CHECK(self.a.link == NULL);
}

TEST(other_threads_see_whether_there_are_any)
{
    fixture self;
    set_up(&self);
    CHECK(!atomic_load(&self.line.is_busy));
    fl_pg_item_insert(&self.connection, &self.a, NULL);
    fl_pg_item_insert(&self.connection, &self.b, NULL);
    CHECK(atomic_load(&self.line.is_busy));
    fl_pg_item_remove(&self.connection, &self.a);
    CHECK(atomic_load(&self.line.is_busy));
    fl_pg_item_remove(&self.connection, &self.b);
    CHECK(!atomic_load(&self.line.is_busy));
}

TEST_MAIN

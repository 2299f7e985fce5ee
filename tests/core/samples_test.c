#include "samples.h"

#include <stdio.h>
#include <stdlib.h>

#include "scarcity.h"
#include "test.h"

static bool renders(const fl_samples *samples, const char *expected)
{
    fl_buffer out;
    fl_buffer_init(&out);
    fl_samples_render(samples, &out);
    bool equal = fl_slice_equal(fl_slice_of(out.data, out.size), fl_slice_from_string(expected));
    fl_buffer_close(&out);
    return equal;
}

TEST(equal_stacks_are_counted_together)
{
    fl_samples samples;
    fl_samples_init(&samples);
    CHECK(renders(&samples, ""));
    fl_samples_add(&samples, FL_SLICE("a;b"), 2);
    fl_samples_add(&samples, FL_SLICE("a;b"), 3);
    CHECK(renders(&samples, "a;b 5\n"));
    fl_samples_add(&samples, FL_SLICE("a"), 0);
    CHECK(renders(&samples, "a;b 5\n"));
    fl_samples_close(&samples);
}

TEST(many_stacks_are_kept_apart)
{
    fl_samples samples;
    fl_samples_init(&samples);
    char text[32];
    for (int round = 0; round < 2; round++)
        for (int i = 0; i < 5000; i++) {
            int size = snprintf(text, sizeof(text), "main;f%d", i);
            fl_samples_add(&samples, fl_slice_of(text, (size_t)size), 1);
        }
    CHECK(samples.count == 5000);
    for (size_t i = 0; i < samples.capacity; i++)
        CHECK(samples.entries[i].count == 0 || samples.entries[i].count == 2);
    CHECK(samples.others == 0);
    fl_samples_close(&samples);
}

TEST(what_is_too_much_is_counted_together)
{
    fl_samples samples;
    fl_samples_init(&samples);
    char text[32];
    for (int i = 0; i < 20000; i++) {
        int size = snprintf(text, sizeof(text), "main;f%d", i);
        fl_samples_add(&samples, fl_slice_of(text, (size_t)size), 1);
    }
    CHECK(samples.count == 16384 && samples.others == 20000 - 16384);
    fl_samples_add(&samples, FL_SLICE("main;f7"), 1); /* a known one is still counted */
    CHECK(samples.others == 20000 - 16384);
    fl_samples_close(&samples);
}

TEST(the_text_is_bounded)
{
    fl_samples samples;
    fl_samples_init(&samples);
    size_t size = 1u << 20;
    char *text = malloc(size);
    for (char i = 0; i < 6; i++) {
        memset(text, 'a' + i, size);
        fl_samples_add(&samples, fl_slice_of(text, size), 7);
    }
    CHECK(samples.count == 4 && samples.others == 14 && samples.text.size == 4 * size);
    free(text);
    fl_samples_close(&samples);
    CHECK(renders(&samples, ""));
}

static int sample(void)
{
    fl_samples samples;
    fl_samples_init(&samples);
    char text[32];
    uint64_t count = 0;
    for (int i = 0; i < 1000; i++) {
        int size = snprintf(text, sizeof(text), "main;f%d", i);
        fl_samples_add(&samples, fl_slice_of(text, (size_t)size), 1);
    }
    for (size_t i = 0; i < samples.capacity; i++) count += samples.entries[i].count;
    int status = count + samples.others == 1000 ? 0 : 1;
    if (status == 0 && samples.others) status = -1;
    fl_samples_close(&samples);
    return status;
}

TEST(without_memory_stacks_are_counted_together)
{
    CHECK_SCARCITY(sample);
}

TEST_MAIN

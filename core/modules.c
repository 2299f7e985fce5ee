#include "modules.h"

#include <lauxlib.h>
#include <lualib.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <uv.h>

#include "buffer.h"
#include "slice.h"

#define BUCKETS 1024
#define LOADER 2 /* of package.loaders: modules written in Lua */

typedef struct module_key {
    bool is_file;    /* `name` is its path, and there is no `search` */
    fl_slice search; /* package.path */
    fl_slice name;
} module_key;

typedef struct bytecode {
    size_t size;
    char bytes[];
} bytecode;

typedef struct entry {
    struct entry *next;   /* in its bucket */
    const bytecode *code; /* the entry of a file owns it, those of names share it */
    module_key key;       /* points into `text` */
    char text[];
} entry;

/* Whoever compiles holds `compiling`, a search holds `table` only: what is there is found at once,
 * however long some file takes. */
struct fl_modules {
    pthread_mutex_t compiling, table;
    entry *buckets[BUCKETS];
    fl_modules_counts counts;
};

/* the table */

static module_key file_key(const char *path)
{
    return (module_key){true, fl_slice_of("", 0), fl_slice_from_string(path)};
}

static uint32_t hash(uint32_t seed, fl_slice text)
{
    for (size_t i = 0; i < text.size; i++) seed = (seed ^ (uint8_t)text.data[i]) * 16777619u;
    return seed;
}

static entry **bucket_of(fl_modules *modules, const module_key *key) /* FNV-1a */
{
    return &modules->buckets[hash(hash(2166136261u, key->search), key->name) % BUCKETS];
}

static bool is_equal(const module_key *a, const module_key *b)
{
    return a->is_file == b->is_file && fl_slice_equal(a->name, b->name) &&
           fl_slice_equal(a->search, b->search);
}

static const bytecode *look_up(fl_modules *modules, const module_key *key)
{
    for (entry *at = *bucket_of(modules, key); at; at = at->next)
        if (is_equal(&at->key, key)) return at->code;
    return NULL;
}

static const bytecode *find(fl_modules *modules, const module_key *key)
{
    pthread_mutex_lock(&modules->table);
    const bytecode *found = look_up(modules, key);
    if (found) modules->counts.hits++;
    pthread_mutex_unlock(&modules->table);
    return found;
}

static fl_slice copy(char *to, fl_slice text)
{
    memcpy(to, text.data, text.size);
    return fl_slice_of(to, text.size);
}

static entry *new_entry(const module_key *key, const bytecode *code)
{
    entry *self = malloc(sizeof(*self) + key->search.size + key->name.size);
    if (!self) return NULL;
    self->code = code;
    self->key.is_file = key->is_file;
    self->key.search = copy(self->text, key->search);
    self->key.name = copy(self->text + key->search.size, key->name);
    return self;
}

/* Returns whether it is kept now. `compiling` is held: nobody else adds anything. */
static bool keep(fl_modules *modules, const module_key *key, const bytecode *code)
{
    if (look_up(modules, key)) return true;
    entry *self = modules->counts.names < FL_MODULES_MOST ? new_entry(key, code) : NULL;
    if (!self) return false;
    entry **bucket = bucket_of(modules, key);
    pthread_mutex_lock(&modules->table);
    self->next = *bucket;
    *bucket = self;
    modules->counts.names++;
    pthread_mutex_unlock(&modules->table);
    return true;
}

/* compiling */

typedef struct compilation {
    const char *path;
    fl_buffer bytes;
} compilation;

static int append(lua_State *L, const void *data, size_t size, void *buffer)
{
    (void)L;
    fl_buffer_append(buffer, data, size);
    return ((fl_buffer *)buffer)->failed;
}

/* Runs protected: pushes and leaves nothing that anybody looks at. */
static int compile_job(lua_State *L)
{
    compilation *job = lua_touserdata(L, 1);
    luaL_openlibs(L); /* a literal as 1LL needs the FFI library, or closing the state crashes */
    if (luaL_loadfilex(L, job->path, "t") != 0) return lua_error(L);
    return lua_dump(L, append, &job->bytes) == 0 ? 0 : luaL_error(L, "not enough memory");
}

/* In a state of its own: nothing of an app runs while the lock is held, no finalizer either. */
static bool compile_bytes(compilation *job)
{
    lua_State *L = luaL_newstate();
    if (!L) return false;
    bool done = lua_cpcall(L, compile_job, job) == 0;
    lua_close(L);
    return done;
}

static bytecode *compile(const char *path)
{
    compilation job = {.path = path};
    bytecode *self = compile_bytes(&job) ? malloc(sizeof(*self) + job.bytes.size) : NULL;
    if (self) {
        self->size = job.bytes.size;
        memcpy(self->bytes, job.bytes.data, job.bytes.size);
    }
    fl_buffer_close(&job.bytes);
    return self;
}

static const bytecode *compile_and_keep(fl_modules *modules, const module_key *key,
                                        const char *path)
{
    bytecode *self = compile(path);
    if (!self) return NULL;
    bool fits = self->size <= FL_MODULES_BYTES - modules->counts.bytes;
    if (!fits || !keep(modules, key, self)) {
        free(self);
        return NULL;
    }
    pthread_mutex_lock(&modules->table);
    modules->counts.compiled++;
    modules->counts.bytes += self->size;
    pthread_mutex_unlock(&modules->table);
    return self;
}

/* The file's, compiled now unless it is there; NULL when it does not compile or nothing more is
 * kept. A name under which it was found is kept with it. */
static const bytecode *code_of(fl_modules *modules, const char *path, const module_key *name)
{
    module_key file = file_key(path);
    const bytecode *found = name ? NULL : find(modules, &file);
    if (found) return found;
    pthread_mutex_lock(&modules->compiling);
    found = find(modules, &file); /* somebody else may have been quicker */
    if (!found) found = compile_and_keep(modules, &file, path);
    if (found && name) (void)keep(modules, name, found);
    pthread_mutex_unlock(&modules->compiling);
    return found;
}

/* loading */

static int push_code(lua_State *L, const bytecode *code, const char *path)
{
    if (!code) return luaL_loadfilex(L, path, "t");
    return luaL_loadbufferx(L, code->bytes, code->size, path, "b"); /* it knows its own name */
}

int fl_modules_load(fl_modules *modules, lua_State *L, const char *path)
{
    return push_code(L, code_of(modules, path, NULL), path);
}

static const char *package_path(lua_State *L)
{
    lua_getfield(L, lua_upvalueindex(2), "path");
    const char *path = lua_tostring(L, -1);
    if (!path) luaL_error(L, "'package.path' must be a string");
    return path;
}

/* package.searchpath(name, path): pushes the file, or nil and where it was looked for */
static void search(lua_State *L, int path)
{
    lua_pushvalue(L, lua_upvalueindex(3));
    lua_pushvalue(L, 1);
    lua_pushvalue(L, path);
    lua_call(L, 2, 2);
}

/* searcher(name) -> function | why there is none   [-0, +1, e] */
static int search_module(lua_State *L)
{
    fl_modules *modules = lua_touserdata(L, lua_upvalueindex(1));
    const char *name = luaL_checkstring(L, 1);
    const module_key key = {false, fl_slice_from_string(package_path(L)),
                            fl_slice_from_string(name)};
    const bytecode *code = find(modules, &key);
    const char *path = name;
    if (!code) {
        search(L, lua_gettop(L));
        path = lua_tostring(L, -2);
        if (!path) return 1; /* the message */
        code = code_of(modules, path, &key);
    }
    if (push_code(L, code, path) == 0) return 1;
    return luaL_error(L, "error loading module '%s' from file '%s':\n\t%s", name, path,
                      lua_tostring(L, -1));
}

void fl_modules_install(fl_modules *modules, lua_State *L)
{
    lua_getglobal(L, "package");
    lua_getfield(L, -1, "loaders");
    lua_pushlightuserdata(L, modules);
    lua_pushvalue(L, -3);
    lua_getfield(L, -4, "searchpath");
    lua_pushcclosure(L, search_module, 3);
    lua_rawseti(L, -2, LOADER);
    lua_pop(L, 2);
}

int fl_modules_new(fl_modules **modules)
{
    fl_modules *self = calloc(1, sizeof(*self));
    *modules = self;
    if (!self) return UV_ENOMEM;
    (void)pthread_mutex_init(&self->compiling, NULL);
    (void)pthread_mutex_init(&self->table, NULL);
    return 0;
}

static void free_entry(entry *self)
{
    if (self->key.is_file) free((void *)(uintptr_t)self->code);
    free(self);
}

void fl_modules_free(fl_modules *modules)
{
    if (!modules) return;
    for (size_t i = 0; i < BUCKETS; i++) {
        while (modules->buckets[i]) {
            entry *next = modules->buckets[i]->next;
            free_entry(modules->buckets[i]);
            modules->buckets[i] = next;
        }
    }
    (void)pthread_mutex_destroy(&modules->compiling);
    (void)pthread_mutex_destroy(&modules->table);
    free(modules);
}

fl_modules_counts fl_modules_count(fl_modules *modules)
{
    pthread_mutex_lock(&modules->table);
    fl_modules_counts counts = modules->counts;
    pthread_mutex_unlock(&modules->table);
    return counts;
}

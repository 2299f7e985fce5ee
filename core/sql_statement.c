#include "sql_statement.h"

static const fl_sql_verb verbs[] = {
    {"SELECT", FL_SQL_READ},        {"VALUES", FL_SQL_READ},      {"TABLE", FL_SQL_READ},
    {"SHOW", FL_SQL_READ},          {"DESCRIBE", FL_SQL_READ},    {"DESC", FL_SQL_READ},
    {"WITH", FL_SQL_OTHER},         {"PRAGMA", FL_SQL_READ},      {"INSERT", FL_SQL_WRITE},
    {"UPDATE", FL_SQL_WRITE},       {"DELETE", FL_SQL_WRITE},     {"REPLACE", FL_SQL_WRITE},
    {"MERGE", FL_SQL_WRITE},        {"CREATE", FL_SQL_SCHEMA},    {"ALTER", FL_SQL_SCHEMA},
    {"DROP", FL_SQL_SCHEMA},        {"TRUNCATE", FL_SQL_SCHEMA},  {"GRANT", FL_SQL_SCHEMA},
    {"REVOKE", FL_SQL_SCHEMA},      {"COMMENT", FL_SQL_SCHEMA},   {"REINDEX", FL_SQL_SCHEMA},
    {"ANALYZE", FL_SQL_SCHEMA},     {"VACUUM", FL_SQL_SCHEMA},    {"REFRESH", FL_SQL_SCHEMA},
    {"CLUSTER", FL_SQL_SCHEMA},     {"SECURITY", FL_SQL_SCHEMA},  {"REASSIGN", FL_SQL_SCHEMA},
    {"IMPORT", FL_SQL_SCHEMA},      {"RENAME", FL_SQL_SCHEMA},    {"OPTIMIZE", FL_SQL_SCHEMA},
    {"REPAIR", FL_SQL_SCHEMA},      {"COPY", FL_SQL_COPY},        {"BEGIN", FL_SQL_SESSION},
    {"START", FL_SQL_SESSION},      {"COMMIT", FL_SQL_SESSION},   {"END", FL_SQL_SESSION},
    {"ROLLBACK", FL_SQL_SESSION},   {"ABORT", FL_SQL_SESSION},    {"SAVEPOINT", FL_SQL_SESSION},
    {"RELEASE", FL_SQL_SESSION},    {"PREPARE", FL_SQL_SESSION},  {"EXECUTE", FL_SQL_SESSION},
    {"DEALLOCATE", FL_SQL_SESSION}, {"SET", FL_SQL_SESSION},      {"RESET", FL_SQL_SESSION},
    {"DISCARD", FL_SQL_SESSION},    {"LISTEN", FL_SQL_SESSION},   {"UNLISTEN", FL_SQL_SESSION},
    {"DECLARE", FL_SQL_SESSION},    {"FETCH", FL_SQL_SESSION},    {"MOVE", FL_SQL_SESSION},
    {"CLOSE", FL_SQL_SESSION},      {"LOCK", FL_SQL_SESSION},     {"UNLOCK", FL_SQL_SESSION},
    {"USE", FL_SQL_SESSION},        {"ATTACH", FL_SQL_SESSION},   {"DETACH", FL_SQL_SESSION},
    {"FLUSH", FL_SQL_SESSION},      {"HANDLER", FL_SQL_SESSION},  {"XA", FL_SQL_SESSION},
    {"EXPLAIN", FL_SQL_OTHER},      {"CALL", FL_SQL_OTHER},       {"DO", FL_SQL_OTHER},
    {"NOTIFY", FL_SQL_OTHER},       {"CHECKPOINT", FL_SQL_OTHER}, {"KILL", FL_SQL_OTHER},
};

/* LOAD reads a file into a table in MariaDB, a library into the session in PostgreSQL. */
static const fl_sql_verb load_data = {"LOAD", FL_SQL_WRITE},
                         load_library = {"LOAD", FL_SQL_SESSION};

static const char *const postgres_session_calls[] = {"pg_advisory_lock",
                                                     "pg_advisory_lock_shared",
                                                     "pg_try_advisory_lock",
                                                     "pg_try_advisory_lock_shared",
                                                     "pg_advisory_unlock",
                                                     "pg_advisory_unlock_shared",
                                                     "pg_advisory_unlock_all",
                                                     "set_config",
                                                     NULL};
static const char *const mariadb_session_calls[] = {"get_lock", "release_lock", "release_all_locks",
                                                    NULL};
static const char *const no_calls[] = {NULL};

static const char *const data_changes[] = {"INSERT", "UPDATE", "DELETE", "MERGE", NULL};

/* These read though they take an argument; those write though they take none. */
static const char *const asking_pragmas[] = {
    "table_info",  "table_xinfo",      "table_list",        "index_list",      "index_info",
    "index_xinfo", "foreign_key_list", "foreign_key_check", "integrity_check", "quick_check",
    NULL};
static const char *const acting_pragmas[] = {"wal_checkpoint", "incremental_vacuum", "optimize",
                                             NULL};

/* What may stand between CREATE, ALTER or DROP and the kind of object, but for names behind a `=`
 * or
 * `@`: `create definer = admin@localhost procedure`. */
static const char *const modifiers[] = {"OR",        "REPLACE",      "GLOBAL",       "LOCAL",
                                        "AGGREGATE", "DEFINER",      "SQL",          "SECURITY",
                                        "INVOKER",   "CURRENT_USER", "CURRENT_ROLE", NULL};
static const char *const mariadb_routines[] = {"PROCEDURE", "FUNCTION", "TRIGGER",
                                               "EVENT",     "PACKAGE",  NULL};

static const char *find(const char *const *list, fl_slice word)
{
    for (; *list; list++)
        if (fl_slice_equal_nocase(word, fl_slice_from_string(*list))) return *list;
    return NULL;
}

static const char *find_word(const char *const *list, fl_sql_token token)
{
    return token.type == FL_SQL_TOKEN_WORD ? find(list, token.text) : NULL;
}

static const fl_sql_verb *find_verb(fl_sql_dialect dialect, fl_sql_token token)
{
    if (token.type != FL_SQL_TOKEN_WORD) return NULL;
    if (fl_sql_token_is_word(token, "LOAD"))
        return dialect == FL_SQL_MARIADB ? &load_data : &load_library;
    for (size_t i = 0; i < sizeof(verbs) / sizeof(*verbs); i++)
        if (fl_sql_token_is_word(token, verbs[i].name)) return &verbs[i];
    return NULL;
}

static bool is_verb(const fl_sql_statement *statement, const char *name)
{
    return statement->verb && strcmp(statement->verb->name, name) == 0;
}

static void begin(fl_sql_statement *statement, fl_sql_token token)
{
    if (fl_sql_token_is_sign(token, '(')) return;
    statement->has_begun = true;
    statement->base = statement->depth;
    statement->verb = find_verb(statement->dialect, token);
    statement->in_head =
        is_verb(statement, "CREATE") || is_verb(statement, "ALTER") || is_verb(statement, "DROP");
}

static fl_sql_body body_of(const fl_sql_statement *statement, fl_sql_token object)
{
    switch (statement->dialect) {
    case FL_SQL_POSTGRES:
        if (fl_sql_token_is_word(object, "RULE")) return FL_SQL_BODY_PARENTHESES;
        return FL_SQL_BODY_AHEAD;
    case FL_SQL_SQLITE:
        return fl_sql_token_is_word(object, "TRIGGER") ? FL_SQL_BODY_AHEAD : FL_SQL_BODY_NONE;
    case FL_SQL_MARIADB:
        return find_word(mariadb_routines, object) ? FL_SQL_BODY_REST : FL_SQL_BODY_NONE;
    }
    return FL_SQL_BODY_NONE;
}

/* The words of CREATE, ALTER and DROP up to the kind of object. */
static void take_head(fl_sql_statement *statement, fl_sql_token token)
{
    const fl_sql_token *last = &statement->last;
    if (fl_sql_token_is_sign(*last, '=') || fl_sql_token_is_sign(*last, '@')) return;
    if (find_word(modifiers, token)) return;
    if (fl_sql_token_is_word(token, "TEMP") || fl_sql_token_is_word(token, "TEMPORARY")) {
        statement->session = is_verb(statement, "DROP") ? "DROP TEMPORARY" : "CREATE TEMPORARY";
        return;
    }
    statement->in_head = false;
    if (!is_verb(statement, "DROP")) statement->body = body_of(statement, token);
}

/* A WITH's main verb is the first verb outside parentheses that is no name. */
static void take_with(fl_sql_statement *statement, fl_sql_token token)
{
    const fl_sql_token *last = &statement->last;
    const char *change = find_word(data_changes, token);
    if (change && !statement->writer) statement->writer = change;
    if (statement->main || statement->depth != statement->base) return;
    if (fl_sql_token_is_sign(*last, ',') || fl_sql_token_is_word(*last, "WITH") ||
        fl_sql_token_is_word(*last, "RECURSIVE"))
        return;
    const fl_sql_verb *verb = find_verb(statement->dialect, token);
    if (verb && (verb->kind == FL_SQL_READ || verb->kind == FL_SQL_WRITE)) statement->main = verb;
}

/* Words that make a reading statement write, or more: SELECT … INTO, FOR UPDATE, LOCK IN SHARE
 * MODE. */
static void take_reading(fl_sql_statement *statement, fl_sql_token token)
{
    const fl_sql_token *last = &statement->last;
    if (fl_sql_token_is_word(token, "INTO") && !statement->writer)
        statement->writer = "SELECT INTO";
    if (fl_sql_token_is_word(*last, "INTO") &&
        (fl_sql_token_is_word(token, "TEMP") || fl_sql_token_is_word(token, "TEMPORARY")))
        statement->session = "SELECT INTO TEMPORARY";
    if (fl_sql_token_is_word(*last, "FOR") &&
        (fl_sql_token_is_word(token, "UPDATE") || fl_sql_token_is_word(token, "SHARE") ||
         fl_sql_token_is_word(token, "NO") || fl_sql_token_is_word(token, "KEY")))
        statement->writer = "SELECT FOR UPDATE";
    if (fl_sql_token_is_word(*last, "LOCK") && fl_sql_token_is_word(token, "IN"))
        statement->writer = "SELECT LOCK IN SHARE MODE";
}

static bool opens_block(const fl_sql_statement *statement, fl_sql_token token)
{
    if (statement->body != FL_SQL_BODY_AHEAD) return false;
    if (statement->dialect == FL_SQL_SQLITE) return fl_sql_token_is_word(token, "BEGIN");
    return fl_sql_token_is_word(token, "ATOMIC") && fl_sql_token_is_word(statement->last, "BEGIN");
}

/* A CASE ends behind something else. */
static bool closes_block(const fl_sql_statement *statement, fl_sql_token token)
{
    const fl_sql_token *last = &statement->last;
    return statement->body == FL_SQL_BODY_BLOCK && fl_sql_token_is_word(token, "END") &&
           (fl_sql_token_is_sign(*last, ';') || fl_sql_token_is_word(*last, "ATOMIC"));
}

static void take_body(fl_sql_statement *statement, fl_sql_token token)
{
    if (opens_block(statement, token)) statement->body = FL_SQL_BODY_BLOCK;
    if (closes_block(statement, token)) statement->body = FL_SQL_BODY_NONE;
    if (statement->dialect == FL_SQL_MARIADB && is_verb(statement, "BEGIN") &&
        fl_sql_token_is_word(token, "NOT")) /* BEGIN NOT ATOMIC */
        statement->body = FL_SQL_BODY_REST;
}

static void take_word(fl_sql_statement *statement, fl_sql_token token)
{
    bool is_with = is_verb(statement, "WITH");
    if (statement->in_head)
        take_head(statement, token);
    else
        take_body(statement, token);
    if (is_with) take_with(statement, token);
    if (is_with || (statement->verb && statement->verb->kind == FL_SQL_READ))
        take_reading(statement, token);
    if (is_verb(statement, "PRAGMA") && !statement->has_argument) statement->pragma = token.text;
}

/* What was called, when the token before a parenthesis is a function's name. */
static const char *session_call(const fl_sql_statement *statement)
{
    fl_slice name = statement->last.text;
    const char *const *calls = no_calls;
    if (statement->dialect == FL_SQL_POSTGRES) calls = postgres_session_calls;
    if (statement->dialect == FL_SQL_MARIADB) calls = mariadb_session_calls;
    if (statement->last.type == FL_SQL_TOKEN_QUOTED)
        name = fl_slice_of(name.data + 1, name.size - 2);
    else if (statement->last.type != FL_SQL_TOKEN_WORD)
        return NULL;
    return find(calls, name);
}

/* temp.items in SQLite, pg_temp.items in PostgreSQL */
static bool is_temporary_schema(const fl_sql_statement *statement)
{
    if (!statement->verb || statement->verb->kind != FL_SQL_SCHEMA) return false;
    const char *name = statement->dialect == FL_SQL_SQLITE ? "temp" : "pg_temp";
    return statement->dialect != FL_SQL_MARIADB && fl_sql_token_is_word(statement->last, name);
}

static void take_sign(fl_sql_statement *statement, fl_sql_token token)
{
    char sign = token.text.data[0];
    const fl_sql_token *last = &statement->last;
    if (sign == '(' && session_call(statement)) statement->session = session_call(statement);
    if (sign == '.' && is_temporary_schema(statement)) statement->session = "CREATE TEMPORARY";
    if (is_verb(statement, "PRAGMA")) {
        if (sign == '=') statement->session = "PRAGMA";
        if (sign == '=' || sign == '(') statement->has_argument = true;
    }
    if (statement->dialect != FL_SQL_MARIADB) return;
    bool is_assignment = sign == '=' && fl_sql_token_is_sign(*last, ':');
    bool is_into = sign == '@' && fl_sql_token_is_word(*last, "INTO");
    if (is_assignment || is_into) statement->session = "a user variable";
}

static void take_next(fl_sql_statement *statement, fl_sql_token token)
{
    if (token.type == FL_SQL_TOKEN_WORD)
        take_word(statement, token);
    else if (token.type == FL_SQL_TOKEN_SIGN)
        take_sign(statement, token);
}

static fl_sql_kind pragma_kind(const fl_sql_statement *statement)
{
    if (find(acting_pragmas, statement->pragma)) return FL_SQL_WRITE;
    if (!statement->has_argument || find(asking_pragmas, statement->pragma)) return FL_SQL_READ;
    return FL_SQL_SESSION;
}

void fl_sql_statement_init(fl_sql_statement *statement, fl_sql_dialect dialect)
{
    *statement = (fl_sql_statement){.dialect = dialect, .pragma = fl_slice_of("", 0)};
}

void fl_sql_statement_take(fl_sql_statement *statement, fl_sql_token token)
{
    if (fl_sql_token_is_sign(token, ')') && statement->depth > 0) statement->depth--;
    if (statement->has_begun)
        take_next(statement, token);
    else
        begin(statement, token);
    if (fl_sql_token_is_sign(token, '(')) statement->depth++;
    statement->last = token;
}

bool fl_sql_statement_goes_on(const fl_sql_statement *statement)
{
    switch (statement->body) {
    case FL_SQL_BODY_NONE:
    case FL_SQL_BODY_AHEAD: return false;
    case FL_SQL_BODY_PARENTHESES: return statement->depth > statement->base;
    case FL_SQL_BODY_BLOCK:
    case FL_SQL_BODY_REST: return true;
    }
    return false;
}

fl_sql_kind fl_sql_statement_kind(const fl_sql_statement *statement, const char **verb)
{
    const fl_sql_verb *main = is_verb(statement, "WITH") ? statement->main : statement->verb;
    *verb = main ? main->name : "the statement";
    if (statement->session) {
        *verb = statement->session;
        return FL_SQL_SESSION;
    }
    if (!main) return FL_SQL_OTHER;
    if (is_verb(statement, "PRAGMA")) return pragma_kind(statement);
    if (main->kind != FL_SQL_READ || !statement->writer) return main->kind;
    *verb = statement->writer;
    return FL_SQL_WRITE;
}

# fasterlua's build. A newcomer needs `make serve` and `make test`; `make help` has the rest.

# Debian packages, each with what it is for. This is the only list: what is missing is installed by
# the targets that need it.
debian := $(shell . /etc/os-release && echo "$$VERSION_ID")
ifeq ($(debian),12)
luajit_dev = libluajit2-5.1-dev
luajit_command = luajit2
llhttp_dev = node-llhttp
clang_version = 14
else
luajit_dev = libluajit-5.1-dev
luajit_command = luajit
llhttp_dev = libllhttp-dev
clang_version = 19
endif

define run_packages
gcc              compiles the core
libc6-dev        the C library's headers
make             runs this file
pkg-config       finds the libraries
$(luajit_dev)    LuaJIT, OpenResty's branch: runs the apps
libuv1-dev       event loops
$(llhttp_dev)    parses HTTP/1.1
libssl-dev       TLS and digests
zlib1g-dev       gzip and deflate
libbrotli-dev    brotli
libzstd-dev      zstd
libpq-dev        PostgreSQL
libsqlite3-dev   SQLite
libmariadb-dev   MariaDB and MySQL
libhiredis-dev   Redis and Valkey
libcurl4-openssl-dev   the HTTP client and mail
lua-argparse     the command line
lua-filesystem   finds the apps
lua-cjson        for apps that require "cjson"
lua-markdown     renders the guide (apps/docs)
endef

define test_packages
$(luajit_command)                  runs the specs
lua-busted                         the specs' framework
lua-check                          lints Lua
lua-socket                         the specs' HTTP client
clang                              sanitizers, fuzzers and a second opinion on warnings
clang-format                       checks the layout of C
libclang-rt-$(clang_version)-dev   the sanitizers' run-time libraries
llvm                               function names in the sanitizers' reports
curl                               a client that is not ours
openssl                            certificates for databases
postgresql                         a database
mariadb-server                     a database
redis-server                       a database
sqlite3                            looks into our files from outside
pgbouncer                          between us and PostgreSQL
nginx                              a server that speaks HTTP/2 to our client
endef

define bench_packages
wrk                     generates the load
nginx-light             a peer
libnginx-mod-http-lua   a peer
python3-fastapi         a peer
uvicorn                 a peer
python3-uvloop          a peer
python3-httptools       a peer
nodejs                  a peer
postgresql              the database of peers and ours
python3-asyncpg         a peer's driver
endef

define fresh_packages
mmdebstrap   makes the minimal Debian that check-fresh installs on
git          makes the clone
iproute2     a loopback interface where there is no network
endef

export run_packages test_packages bench_packages fresh_packages

# What a user may set: make PREFIX=/opt/fasterlua, make ONLY=http/wire test …
PREFIX ?= /usr/local
DESTDIR ?=
ONLY ?=
OPTIMIZE ?= -O2 -g
WERROR ?=
FUZZ_RUNS ?= 100000
FUZZ_SECONDS ?= 20
SOAK_SECONDS ?= 600
TSAN_ONLY ?= core/mailbox core/claim core/lease core/channel core/ring core/fanout core/topic \
    core/quota core/segment core/shared core/log core/metrics core/admin core/ledger core/modules \
    http/threads http/exec http/fs http/log http/admin http/await http/stream http/pool_spec \
    http/pool_failure http/pool_process http/pool_stream http/run_in http/shared http/channel \
    http/topic http/evacuation core/exile core/turn_end core/resolve core/sqlite http/sqlite \
    http/db_sqlite core/postgres core/mariadb core/redis core/http http/redis http/http_client \
    http/db_postgres http/db_mariadb
LANES ?=
BUILD ?= build
SANITIZE ?=
SUITE ?= bookworm
ifeq ($(origin CC),default)
CC = gcc
endif

ifeq ($(MAKELEVEL),0)
ifeq ($(filter -j%,$(MAKEFLAGS)),)
MAKEFLAGS += -j$(shell nproc)
endif
endif
MAKEFLAGS += --no-print-directory
.DELETE_ON_ERROR:
.SUFFIXES:

# Drivers, each a shared object of its own with the library it stands on; built when that is there.
library_of_postgres = libpq
library_of_sqlite = sqlite3
library_of_mariadb = libmariadb
library_of_redis = hiredis
library_of_http = libcurl
drivers := $(foreach driver,postgres sqlite mariadb redis http,$(if \
    $(wildcard core/drivers/$(driver)/*.c),$(if \
    $(shell pkg-config --exists $(library_of_$(driver)) 2>/dev/null && echo yes),$(driver))))
# The Debian package that a driver's library is in: its name differs between releases.
package_of = $(shell $(CC) -print-file-name="$$(pkg-config --libs-only-l $(library_of_$(1)) \
    | sed 's/^-l\([^ ]*\).*/lib\1.so/')" | xargs readlink -f | xargs dpkg -S 2>/dev/null | cut -d: -f1)
driver_libraries = $(foreach driver,$(drivers),$(library_of_$(driver)))

# Flags. Libraries' headers are system headers: our warnings are about our code.
libraries = luajit libuv openssl zlib libbrotlienc libbrotlidec libzstd
library_flags := $(patsubst -I%,-isystem %,$(shell \
    pkg-config --cflags $(libraries) $(driver_libraries) 2>/dev/null))
library_links := $(shell pkg-config --libs $(libraries) 2>/dev/null)

llhttp := $(wildcard /usr/share/llhttp/api.c /usr/share/llhttp/http.c /usr/share/llhttp/llhttp.c)
ifneq ($(llhttp),)
library_flags += -isystem /usr/share/include/llhttp
else
library_links += -lllhttp
endif

WARNINGS = -Wall -Wextra -Wshadow -Wconversion -Wstrict-prototypes $(WERROR)
language = -std=c11 -D_GNU_SOURCE -pthread
# No path and no date of this build ends up in the result; stack traces work through every frame.
code = $(OPTIMIZE) -fPIE -funwind-tables -ffile-prefix-map=$(CURDIR)=.
ifeq ($(SANITIZE),)
code += -fstack-protector-strong -fstack-clash-protection -U_FORTIFY_SOURCE -D_FORTIFY_SOURCE=2
else
code += -fsanitize=$(SANITIZE) -fno-sanitize-recover=all -fno-omit-frame-pointer -DFL_DEBUG
endif

# The program is optimized as a whole; unit tests link the same objects as they are, which is quick.
lto = $(if $(SANITIZE),,$(if $(findstring gcc,$(CC)),-flto=auto -ffat-lto-objects))

compile = $(CC) $(language) $(code) $(CPPFLAGS) $(CFLAGS)
ours = $(WARNINGS) -Icore $(library_flags)
link = $(CC) $(language) $(code) -pie -Wl,-z,relro,-z,now -Wl,--as-needed $(CFLAGS) $(LDFLAGS)
link_libraries = $(library_links) -lm -lpthread -ldl

# Files.
core_sources := $(wildcard core/*.c core/bind/*.c)
driver_sources := $(wildcard core/drivers/*/*.c)
driver_objects := $(patsubst %.c,$(BUILD)/%.o,$(foreach driver,$(drivers),$(wildcard \
    core/drivers/$(driver)/*.c)))
driver_programs := $(drivers:%=$(BUILD)/drivers/%.so)
driver_links := $(if $(drivers),$(shell pkg-config --libs $(driver_libraries) 2>/dev/null))
core_objects := $(core_sources:%.c=$(BUILD)/%.o)
llhttp_objects := $(llhttp:/usr/share/llhttp/%.c=$(BUILD)/llhttp/%.o)
library_objects := $(filter-out $(BUILD)/core/main.o,$(core_objects)) $(llhttp_objects)
unit_tests := $(patsubst tests/core/%.c,$(BUILD)/tests/%,$(wildcard tests/core/*_test.c))
fuzzers := $(patsubst tests/fuzz/%.c,$(BUILD)/%,$(wildcard tests/fuzz/*_fuzz.c))
bench_programs := $(patsubst tests/bench/%.c,$(BUILD)/bench/%,$(wildcard tests/bench/*.c))
c_sources = $(core_sources) $(driver_sources) $(wildcard tests/*/*.c)
c_files = $(c_sources) $(wildcard core/*.h core/*/*.h core/*/*/*.h tests/*/*.h)
lua_files = $(wildcard lua apps conf tests) \
    $(shell grep -ls '^\#!.*luajit' tests/run tests/bench/run)

.PHONY: all serve test soak bench-peers check unit-tests fuzzers bench-programs lint lint-lua lint-c lint-format \
        format asan tsan build-asan build-tsan build-fuzz fuzz bench install uninstall clean check-fresh help FORCE

all: $(BUILD)/fasterlua $(driver_programs)

help:
	@echo "make serve        install what is missing, build, serve the example apps on port 8000"
	@echo "make test         install what is missing, build, run every test (ONLY='pattern …': some)"
	@echo "make soak         handlers that get stuck, and none that do, under load for $(SOAK_SECONDS) s"
	@echo "make              build build/fasterlua"
	@echo "make lint         luacheck, clang's warnings, clang-format (make format repairs the latter)"
	@echo "make asan, tsan   the tests under AddressSanitizer and UBSan, under ThreadSanitizer"
	@echo "make fuzz         every fuzzer; FUZZ_RUNS=$(FUZZ_RUNS) FUZZ_SECONDS=$(FUZZ_SECONDS)"
	@echo "make bench        compare with other servers"
	@echo "make install      PREFIX=$(PREFIX) DESTDIR=$(DESTDIR); make uninstall"
	@echo "make check-fresh  prove the first two on a minimal Debian SUITE=$(SUITE) (as root)"
	@echo "make clean"

# $(call install_missing,LISTS): says what is missing and what for, and installs it. When nothing
# is missing it does nothing and needs no network.
define install_missing
@missing=$$({ dpkg-query -W -f='= $${Package} $${db:Status-Status}\n'; \
        printf '%s\n' $(foreach list,$(1),"$$$(list)"); } \
    | awk '$$1 == "=" { status[$$2] = $$3; next } NF && status[$$1] != "installed"'); \
[ -n "$$missing" ] || exit 0; \
names=$$(echo "$$missing" | awk '{ print $$1 }'); \
echo "Debian packages to install:"; \
echo "$$missing" | while read -r name reason; do printf '  %-24s %s\n' "$$name" "$$reason"; done; \
other=libluajit-5.1-dev; \
if [ $(luajit_dev) != $$other ] && dpkg-query -W -f='$${db:Status-Status}' $$other 2>/dev/null \
        | grep -qx installed; then \
    echo "  ($$other will be replaced: Debian 12's build of it computes wrong results)"; fi; \
root=; \
if [ "$$(id -u)" != 0 ]; then \
    root=sudo; \
    if ! command -v sudo >/dev/null; then \
        echo "That needs root, and there is no sudo. As root:"; \
        echo "  apt-get install --no-install-recommends" $$names; exit 1; fi; fi; \
$(2) \
$$root apt-get -q update || echo "apt-get update failed: going on with the lists that are here"; \
$$root env DEBIAN_FRONTEND=noninteractive apt-get -q -y -o DPkg::Lock::Timeout=120 \
    install --no-install-recommends $$names
endef

# Databases and peers are started by what uses them, in folders and on ports of its own: Debian must
# not start them as services.
define start_no_services
policy=/usr/sbin/policy-rc.d; \
if [ ! -e $$policy ]; then \
    trap '$$root rm -f /usr/sbin/policy-rc.d' EXIT; \
    printf '#!/bin/sh\nexit 101\n' | $$root tee $$policy >/dev/null; $$root chmod 755 $$policy; fi;
endef

# Packages may arrive while this runs, so the work is done by a second make that sees them.
serve:
	$(call install_missing,run_packages)
	@$(MAKE) all
	@exec $(BUILD)/fasterlua serve apps/

test:
	$(call install_missing,run_packages test_packages,$(start_no_services))
	@$(MAKE) check

soak:
	$(call install_missing,run_packages test_packages,$(start_no_services))
	@SOAK=$(SOAK_SECONDS) SPEC_SECONDS=$$(($(SOAK_SECONDS) + 900)) $(MAKE) check \
	    ONLY=http/evacuation

# The load generator of some specs stays a fast one.
unsanitized = BUILD=build CC=gcc OPTIMIZE='-O2 -g' SANITIZE=

# How many test files run at once: one more where their bounds are multiplied.
lanes = $(or $(LANES),$(shell echo $$(($$(nproc) + $(if $(SANITIZE),1,0)))))

# Needs the packages. asan and tsan run it on their own builds. A unit test that does not compile is
# a failed test and does not keep the others from running.
check: all
	@$(MAKE) -k unit-tests || true
	@$(MAKE) -k bench-programs $(if $(SANITIZE),$(unsanitized)) || true
	@BUILD='$(BUILD)' ONLY='$(ONLY)' LANES=$(lanes) tests/run

unit-tests: $(unit_tests)
	@:

with_asan = BUILD=build/asan CC=clang OPTIMIZE='-O1 -g' SANITIZE=address,undefined
with_tsan = BUILD=build/tsan CC=clang OPTIMIZE='-O1 -g' SANITIZE=thread
with_fuzzer = BUILD=build/fuzz CC=clang OPTIMIZE='-O1 -g' SANITIZE=fuzzer-no-link,address,undefined

asan:
	$(call install_missing,run_packages test_packages,$(start_no_services))
	@$(MAKE) check $(with_asan)

tsan:
	$(call install_missing,run_packages test_packages,$(start_no_services))
	@$(MAKE) check $(with_tsan) ONLY='$(or $(ONLY),$(TSAN_ONLY))'

# What asan, tsan and fuzz would build first.
build-asan:
	@$(MAKE) -k all unit-tests $(with_asan)

build-tsan:
	@$(MAKE) -k all unit-tests $(with_tsan)

build-fuzz:
	@$(MAKE) -k fuzzers $(with_fuzzer)

fuzz:
	$(call install_missing,run_packages test_packages,$(start_no_services))
	@$(MAKE) build-fuzz || true
	@BUILD=build/fuzz ONLY='$(ONLY)' FUZZ_RUNS=$(FUZZ_RUNS) FUZZ_SECONDS=$(FUZZ_SECONDS) \
	    LANES=$(lanes) tests/run --fuzz

fuzzers: $(fuzzers)
	@:

bench:
	$(call install_missing,run_packages test_packages bench_packages,$(start_no_services))
	@$(MAKE) all bench-programs bench-peers
	@BUILD='$(BUILD)' tests/bench/run $(BENCH_FLAGS)

# Peers from npm, where there is npm; the benchmark says what it skips.
bench-peers:
	@if command -v npm >/dev/null && ! cmp -s tests/bench/peers/package-lock.json \
	        $(BUILD)/bench/npm/package-lock.json; then \
	    mkdir -p $(BUILD)/bench/npm && cp tests/bench/peers/package*.json $(BUILD)/bench/npm && \
	    cd $(BUILD)/bench/npm && npm ci --ignore-scripts >/dev/null || rm -f package-lock.json; fi

bench-programs: $(bench_programs)
	@:

check-fresh:
	$(call install_missing,test_packages fresh_packages)
	@tests/check-fresh $(SUITE)

# Compiling. The flags' file changes when flags or the set of sources do: then all is made anew.
$(BUILD)/flags: FORCE
	@mkdir -p $(@D)
	@printf '%s\n' '$(compile) $(lto) $(ours) $(link_libraries)' '$(core_sources)' '$(drivers)' | cmp -s - $@ \
	    || printf '%s\n' '$(compile) $(lto) $(ours) $(link_libraries)' '$(core_sources)' '$(drivers)' > $@

$(BUILD)/core/%.o: core/%.c $(BUILD)/flags
	@mkdir -p $(@D)
	@echo "  $(CC) $<"
	@$(compile) $(lto) $(ours) $(defines) -MMD -MP -c -o $@ $<

# Names the missing package where a driver's library is not there.
$(BUILD)/core/driver.o: private defines = -DFL_DRIVER_PACKAGES='$(foreach driver,$(drivers),\
    {"$(driver)", "$(call package_of,$(driver))"},)'

# Not our code, so not our warnings. Strict: by default llhttp 8 takes `Host :` and bare CRs.
$(BUILD)/llhttp/%.o: /usr/share/llhttp/%.c $(BUILD)/flags
	@mkdir -p $(@D)
	@echo "  $(CC) $<"
	@$(compile) $(lto) -w -DLLHTTP_STRICT_MODE=1 -I/usr/share/include/llhttp -c -o $@ $<

$(BUILD)/libfasterlua.a: $(library_objects) $(driver_objects)
	@rm -f $@
	@$(AR) rcsD $@ $(filter-out %/open.o,$^)

# -rdynamic: Lua modules written in C find our symbols.
$(BUILD)/fasterlua: $(BUILD)/core/main.o $(library_objects)
	@echo "  link $@"
	@$(link) $(lto) -rdynamic -o $@ $^ $(link_libraries)

# A driver finds the program's own functions in the program. open.c makes a driver of the rest of
# its folder, which unit tests link like any other source.
$(driver_objects): $(BUILD)/%.o: %.c $(BUILD)/flags
	@mkdir -p $(@D)
	@echo "  $(CC) $<"
	@$(compile) -fPIC $(ours) -MMD -MP -c -o $@ $<

.SECONDEXPANSION:
$(BUILD)/drivers/%.so: $$(addprefix $(BUILD)/,$$(addsuffix .o,$$(basename \
    $$(wildcard core/drivers/$$*/*.c))))
	@mkdir -p $(@D)
	@echo "  link $@"
	@$(CC) $(code) -shared -Wl,-z,relro,-z,now -Wl,--as-needed $(CFLAGS) $(LDFLAGS) -o $@ $^ \
	    $(shell pkg-config --libs $(library_of_$*) openssl)

# Unit tests may let allocations of the core fail: see tests/support/scarcity.h.
wrapped = malloc calloc realloc aligned_alloc strdup strndup vasprintf free

$(BUILD)/tests/scarcity.o: tests/support/scarcity.c tests/support/scarcity.h $(BUILD)/flags
	@mkdir -p $(@D)
	@$(compile) $(ours) -c -o $@ $<

$(BUILD)/tests/%_test: tests/core/%_test.c $(BUILD)/tests/scarcity.o $(BUILD)/libfasterlua.a \
        $(BUILD)/flags
	@mkdir -p $(@D)
	@echo "  $(CC) $<"
	@rm -f $@
	@$(link) -fno-lto $(ours) -Itests/support -MMD -MP -MF $@.d $(wrapped:%=-Wl,--wrap=%) -o $@ $< \
	    $(BUILD)/tests/scarcity.o $(BUILD)/libfasterlua.a $(driver_links) $(link_libraries)

$(BUILD)/%_fuzz: tests/fuzz/%_fuzz.c $(BUILD)/libfasterlua.a $(BUILD)/flags
	@mkdir -p $(@D)
	@echo "  $(CC) $<"
	@rm -f $@
	@$(link) -fsanitize=fuzzer $(ours) -Itests/support -MMD -MP -MF $@.d -o $@ $< \
	    $(BUILD)/libfasterlua.a $(driver_links) $(link_libraries)

$(BUILD)/bench/%: tests/bench/%.c $(llhttp_objects) $(BUILD)/flags
	@mkdir -p $(@D)
	@echo "  $(CC) $<"
	@$(link) $(ours) -MMD -MP -MF $@.d -o $@ $< $(llhttp_objects) $(link_libraries)

-include $(core_objects:.o=.d) $(driver_objects:.o=.d) $(unit_tests:%=%.d) $(fuzzers:%=%.d) $(bench_programs:%=%.d)

# Checking without running.
lint:
	$(call install_missing,run_packages test_packages,$(start_no_services))
	@$(MAKE) -k lint-lua lint-c lint-format

lint-lua:
	@luacheck -q --no-color $(lua_files)

lint-c:
	@printf '%s\n' $(c_sources) | xargs -r -n 4 -P $(shell nproc) \
	    clang -fsyntax-only $(language) $(WARNINGS) -Werror -Icore -Itests/support $(library_flags)

lint-format:
	@printf '%s\n' $(c_files) | xargs -r clang-format --dry-run -Werror

format:
	@printf '%s\n' $(c_files) | xargs -r clang-format -i

# Installing. The program finds share/fasterlua beside its own bin/.
share = $(DESTDIR)$(PREFIX)/share/fasterlua

install: all
	install -D -m 755 $(BUILD)/fasterlua $(DESTDIR)$(PREFIX)/bin/fasterlua
	$(foreach driver,$(drivers),install -D -m 755 $(BUILD)/drivers/$(driver).so \
	    $(DESTDIR)$(PREFIX)/lib/fasterlua/$(driver).so;)
	rm -rf $(share)
	find lua conf apps -type f ! -name '*_spec.lua' -exec install -D -m 644 {} $(share)/{} \;

uninstall:
	rm -rf $(DESTDIR)$(PREFIX)/bin/fasterlua $(DESTDIR)$(PREFIX)/lib/fasterlua $(share)

clean:
	rm -rf build

-- What differs under tests: a free port, few threads, a quick end.
return {
  port = 0,
  threads = 2,
  access_log = false,
  drain = "2s",
}

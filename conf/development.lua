-- What differs on the machine of a developer: everything is told, nothing lingers.
return {
  log_level = "debug",
  drain = "1s",
}

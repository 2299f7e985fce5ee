-- report: adds a line to the file that FIGURES names, if it does: what a spec has measured.
--
--     report("%s: back %.3f s after restart %d", server, took, round)

local FIGURES = os.getenv "FIGURES"

---@param format string
---@param ... any
return function(format, ...)
  if FIGURES then
    local file = assert(io.open(FIGURES, "a"))
    file:write(format:format(...), "\n")
    file:close()
  end
end

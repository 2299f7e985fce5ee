-- The job of nginx_jobs.conf.
local M = {}

function M.nothing(value)
  return value
end

return M

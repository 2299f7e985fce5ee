-- The settings of conf/default.lua as Markdown tables, so that the guide cannot be out of date.

local settings = require "fasterlua.settings"

local settings_table = {}

-- The installation that this server runs from.
local function home()
  local file = assert(package.searchpath("fasterlua.settings", package.path))
  return (file:gsub("lua/fasterlua/settings%.lua$", ""):gsub("([^/])/$", "%1"))
end

local function default_text(value)
  if type(value) == "table" then
    return "{}"
  end
  return type(value) == "string" and ('"%s"'):format(value) or tostring(value)
end

--- One table for each group of settings.
---@return string
function settings_table.markdown()
  local folder = home()
  local defaults = settings.read_file(folder .. "/conf/default.lua")
  local lines, group = {}, nil
  for _, entry in ipairs(settings.describe(folder)) do
    if entry.group ~= group then
      group = entry.group
      lines[#lines + 1] = ("\n## %s\n\n| setting | default | meaning |"):format(group)
      lines[#lines + 1] = "|---|---|---|"
    end
    local row = "| `%s` | `%s` | %s |"
    local meaning = entry.comment:gsub("|", "/")
    lines[#lines + 1] = row:format(entry.name, default_text(defaults[entry.name]), meaning)
  end
  return table.concat(lines, "\n") .. "\n"
end

return settings_table

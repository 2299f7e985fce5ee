-- Lines of CSV (RFC 4180).
--
--     csv.line { 1, 'say "hi"' }   --> '1,"say ""hi"""\r\n'
local csv = {}

-- A spreadsheet takes what begins like a formula for one.
local function field(value)
  local text = tostring(value)
  if type(value) == "string" and text:find("^[=+@-]") then
    text = "'" .. text
  end
  if text:find('[",\r\n]') then
    return '"' .. text:gsub('"', '""') .. '"'
  end
  return text
end

---@param values (string|number)[]
---@return string
function csv.line(values)
  local fields = {}
  for index, value in ipairs(values) do
    fields[index] = field(value)
  end
  return table.concat(fields, ",") .. "\r\n"
end

return csv

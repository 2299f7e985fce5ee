-- xml: a small strict reader of the XML that we write.
--
--     local elements = xml.parse("<svg><title>a</title></svg>")
--     elements[2].text -- "a"

local M = {}

---The elements in order, each a table of its attributes with `name`, `text` and `parent`. Raises
---what is no well-formed XML, and what uses more of it than pictures do.
---@param text string
---@return table[]
function M.parse(text)
  local elements, open, at = {}, {}, 1
  text = text:gsub("^<%?xml[^?]*%?>%s*", "")
  text = text:gsub("<!%[CDATA%[.-%]%]>", "")
  while at <= #text do
    local from, to, close, name, attributes, empty = text:find("^<(/?)([%a][%w]*)(.-)(/?)>", at)
    if not from then
      from, to = text:find("^[^<]+", at)
      local content = assert(from, "malformed at " .. text:sub(at, at + 40)) and text:sub(from, to)
      for entity in content:gmatch("&[^;]*;?") do
        assert(("&amp;&lt;&gt;&quot;"):find(entity, 1, true), "unknown entity " .. entity)
      end
      assert(#open > 0 or content:find("^%s*$"), "text outside of the root")
      if #open > 0 then open[#open].text = (open[#open].text or "") .. content end
    elseif close == "/" then
      assert(#open > 0 and table.remove(open).name == name, "unexpected </" .. name .. ">")
    else
      local element = { name = name, parent = open[#open] }
      local rest = attributes:gsub('%s([%w:-]+)="([^"<]*)"', function(key, value)
        assert(element[key] == nil, "twice: " .. key)
        element[key] = value
        return ""
      end)
      assert(rest:find("^%s*$"), "malformed attributes: " .. rest)
      elements[#elements + 1] = element
      if empty ~= "/" then open[#open + 1] = element end
    end
    at = to + 1
  end
  assert(#open == 0, "not closed: " .. (#open > 0 and open[#open].name or ""))
  return elements
end

return M

local blocks = require "support.blocks"
local support = require "support"

package.path = "apps/docs/?.lua;" .. package.path

local ENTITIES = { ["&"] = "&amp;", ["<"] = "&lt;", [">"] = "&gt;", ['"'] = "&quot;",
  ["'"] = "&#39;" }

local function read(path)
  local file = assert(io.open(path))
  local text = file:read("*a")
  file:close()
  return text
end

local function page_names()
  local names = {}
  for name in io.popen("ls apps/docs/pages"):lines() do
    names[#names + 1] = assert(name:match("^(.*)%.md$"), name .. " is no page")
  end
  return names
end

support.describe_server("the docs app", { dir = "apps" }, function(get_server)
  local function get(name)
    return get_server():get("/docs/" .. name)
  end

  it("begins with the first steps", function()
    local response = get ""
    assert.equal(307, response.status)
    assert.equal("/docs/first-steps", response.headers.location)
  end)

  it("serves every page as a whole document, linked from the others", function()
    local first = get("first-steps").body
    for _, name in ipairs(page_names()) do
      local response = get(name)
      assert.equal(200, response.status, name)
      assert.equal("text/html; charset=utf-8", response.headers["content-type"])
      assert.matches("^<!doctype html>", response.body)
      assert.matches("</html>%s*$", response.body)
      assert.matches("<h1>[^<]+</h1>", response.body)
      local current = ('<a href="%s" aria-current="page">'):format(name)
      assert.is_truthy(response.body:find(current, 1, true), name)
      assert.is_truthy(first:find(('<a href="%s"'):format(name), 1, true), name)
    end
  end)

  it("shows every block as it is written, escaped once", function()
    for _, name in ipairs(page_names()) do
      local body = get(name).body:gsub('<span class="%l">([^<]*)</span>', "%1")
      for _, block in ipairs(blocks.parse("apps/docs/pages/" .. name .. ".md")) do
        local text = block.text:gsub("[&<>\"']", ENTITIES):gsub("\n$", "")
        assert.is_truthy(body:find("<code>" .. text .. "</code></pre>", 1, true), block.line)
      end
    end
  end)

  it("leaves no mark-up behind and escapes nothing twice", function()
    for _, name in ipairs(page_names()) do
      local prose = get(name).body:gsub("<pre.-</pre>", "")
      for _, wrong in ipairs { "&amp;%w+;", "&amp;#", "```", "{{", "xcutx", "\n|", "%*%*", "`" } do
        assert.is_nil(prose:find(wrong), name .. ": " .. wrong)
      end
    end
  end)

  it("links only to what is there", function()
    for _, name in ipairs(page_names()) do
      for target in get(name).body:gmatch('href="([^"]*)"') do
        local path, fragment = target:match("^([^#]*)#?(.*)$")
        if not path:find("^https?:") then
          path = path:gsub("^%./", "")
          local response = get(path == "" and name or path)
          assert.is_true(response.status < 400, name .. " links to " .. target)
          local is_there = fragment == ""
            or response.body:find(('id="%s"'):format(fragment), 1, true) ~= nil
          assert.is_true(is_there, name .. " links to " .. target)
        end
      end
    end
  end)

  it("lists every setting with its default", function()
    local body = get("configuration").body
    for line in read("conf/default.lua"):gmatch("[^\n]+") do
      local name = line:match("^  ([%l_]+) = ")
      if name then
        assert.is_truthy(body:find(("<td><code>%s</code></td>"):format(name), 1, true), name)
      end
    end
    assert.is_truthy(body:find("<code>&quot;16KB&quot;</code>", 1, true))
  end)

  it("sends its style", function()
    local response = get "style.css"
    assert.equal("text/css; charset=utf-8", response.headers["content-type"])
    assert.matches("prefers%-color%-scheme: dark", response.body)
  end)

  it("does without scripts and without other hosts", function()
    for _, name in ipairs(page_names()) do
      local body = get(name).body
      assert.is_nil(body:find("<script", 1, true))
      assert.is_nil(body:find('src="', 1, true))
    end
  end)

  it("says when there is no such page", function()
    assert.equal(404, get("nothing").status)
  end)
end)

for _, name in ipairs(page_names()) do
  blocks.describe("apps/docs/pages/" .. name .. ".md")
end

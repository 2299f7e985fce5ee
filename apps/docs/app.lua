-- Serves the guide: the pages of pages/, in HTML that needs no JavaScript.
local fl = require "fasterlua"
local guide = require "guide"
local await = fl.await

local app = fl.app { title = "The fasterlua guide" }

local function parts_of(page)
  local items = {}
  for _, heading in ipairs(page.headings) do
    items[#items + 1] = ('<li><a href="#%s">%s</a></li>'):format(heading.id, heading.html)
  end
  return items[1] and '\n<ul class="parts">\n' .. table.concat(items, "\n") .. "\n</ul>" or ""
end

local function navigation(current)
  local items = {}
  for _, name in ipairs(guide.names) do
    local here = name == current and ' aria-current="page"' or ""
    local page = app.state.pages[name]
    items[#items + 1] = ('<li><a href="%s"%s>%s</a>%s</li>'):format(name, here,
      fl.escape_html(page.title), name == current and parts_of(page) or "")
  end
  return table.concat(items, "\n")
end

-- Where the next page is, at the end of each.
local function next_link(current)
  for index, name in ipairs(guide.names) do
    local following = guide.names[index + 1]
    if name == current and following then
      local title = app.state.pages[following].title
      return ('<a href="%s">Next: %s</a>'):format(following, fl.escape_html(title))
    end
  end
  return ""
end

local function fill(layout, values)
  return (layout:gsub("{{(%w+)}}", values))
end

app:on_start(function()
  app.state.style = await(fl.fs.read "style.css")
  app.state.pages = guide.pages(function(name)
    return await(fl.fs.read("pages/" .. name .. ".md"))
  end)
  local layout = await(fl.fs.read "layout.html")
  for name, page in pairs(app.state.pages) do
    page.document = fill(layout, {
      title = fl.escape_html(page.title),
      navigation = navigation(name),
      content = page.html,
      next = next_link(name),
    })
  end
end)

app:get("/", function()
  return fl.redirect(app:url_for("page", { name = guide.names[1] }))
end)

app:get("/style.css", function()
  return app.state.style, 200, { ["Content-Type"] = "text/css; charset=utf-8" }
end)

app:get("/{name}", { name = "page" }, function(req)
  local page = app.state.pages[req.params.name]
  return page and fl.html(page.document) or fl.http_error(404, "the guide has no such page")
end)

return app

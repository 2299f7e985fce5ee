-- The guide: Markdown pages made into HTML, once, when the app starts.
--
--     local pages = guide.pages(function(name) return read("pages/" .. name .. ".md") end)
--     pages["routing"].html

local fl = require "fasterlua"
local highlight = require "highlight"
local markdown = require "markdown"
local settings_table = require "settings_table"

local SHORT_CODE = 28 -- bytes

local guide = {}

-- In the order of the navigation.
guide.names = {
  "first-steps", "routing", "requests", "responses", "await", "pools", "shared", "channels",
  "databases", "redis", "http-client", "middleware", "streaming", "files", "configuration",
  "deployment", "troubleshooting",
}

---@class docs.Page
---@field name string
---@field title string
---@field html string
---@field headings { id: string, html: string }[] its parts

local escape = fl.escape_html

-- The Markdown library knows neither fenced blocks nor tables: they are cut out before it reads the
-- text, and put in where their marks stand afterwards.

local function code_block(language, text)
  return ('<pre class="%s"><code>%s</code></pre>'):format(escape(language),
    highlight(language, text))
end

-- Cells are plain text with code and links: the library takes long for many small texts.
local function cell_html(text)
  return (escape(text):gsub("`([^`]+)`", "<code>%1</code>")
    :gsub("%[([^%]]+)%]%(([^)]+)%)", '<a href="%2">%1</a>'))
end

local function row_html(line, tag)
  local cells = {}
  for text in line:gsub("^|", ""):gmatch("%s*([^|]-)%s*|") do
    cells[#cells + 1] = ("<%s>%s</%s>"):format(tag, cell_html(text), tag)
  end
  return "<tr>" .. table.concat(cells) .. "</tr>"
end

local function table_html(lines)
  local rows = { row_html(lines[1], "th") }
  for index = 3, #lines do -- the second line is the rule
    rows[#rows + 1] = row_html(lines[index], "td")
  end
  return '<div class="table"><table>\n' .. table.concat(rows, "\n") .. "\n</table></div>"
end

-- The text with marks in the place of fenced blocks and tables, and their HTML.
local function cut_out(text)
  local out, cut, code, rows, language = {}, {}, nil, nil, nil
  local function replace(html)
    cut[#cut + 1] = html
    out[#out + 1] = ("\nxcutx%dx\n"):format(#cut)
  end
  for line in (text .. "\n"):gmatch("(.-)\n") do
    local fence = line:match("^```(.*)$")
    if rows and not line:find("^|") then
      replace(table_html(rows))
      rows = nil
    end
    if code and fence then
      replace(code_block(language, table.concat(code, "\n")))
      code = nil
    elseif code then
      code[#code + 1] = line
    elseif fence then
      code, language = {}, fence
    elseif line:find("^|") then
      rows = rows or {}
      rows[#rows + 1] = line
    else
      out[#out + 1] = line
    end
  end
  return table.concat(out, "\n") .. "\n", cut
end

local function anchor(heading)
  return (heading:gsub("<[^>]*>", ""):gsub("&%w+;", ""):lower():gsub("[^%w]+", "-")
    :gsub("^%-", ""):gsub("%-$", ""))
end

local function add_anchors(html)
  local headings = {}
  html = html:gsub("<h2>(.-)</h2>", function(heading)
    local id = anchor(heading)
    headings[#headings + 1] = { id = id, html = heading }
    return ('<h2 id="%s">%s</h2>'):format(id, heading)
  end)
  return html, headings
end

-- Short code is not broken at its hyphens.
local function keep_together(html)
  return (html:gsub("<code>([^<\n]+)</code>", function(text)
    return #text <= SHORT_CODE and ('<code class="short">%s</code>'):format(text) or nil
  end))
end

--- Makes HTML of Markdown with fenced blocks and tables.
---@param text string
---@return string html
---@return { id: string, html: string }[] headings
function guide.render(text)
  local rest, cut = cut_out(text)
  local html, headings = add_anchors(keep_together(markdown(rest)))
  html = html:gsub("<p>xcutx(%d+)x</p>", function(number)
    return cut[tonumber(number)]
  end)
  return html, headings
end

--- Makes all pages.
---@param read fun(name: string): string the Markdown of a page
---@return table<string, docs.Page>
function guide.pages(read)
  local pages = {}
  for _, name in ipairs(guide.names) do
    local text = read(name):gsub("<!%-%- settings %-%->", settings_table.markdown)
    local title = text:match("^# ([^\n]+)")
    local html, headings = guide.render(text)
    pages[name] = { name = name, title = title, html = html, headings = headings }
  end
  return pages
end

return guide

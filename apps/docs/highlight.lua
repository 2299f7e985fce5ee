-- Colours for the guide's blocks of code: comments, texts and keywords of Lua, commands of a shell.
--
--     highlight("lua", "return 1 -- one")
--     -- <span class="k">return</span> 1 <span class="c">-- one</span>

local fl = require "fasterlua"

local escape = fl.escape_html

local keywords = {}
for word in ("and break do else elseif end false for function if in local nil not or repeat return "
  .. "then true until while"):gmatch("%a+") do
  keywords[word] = true
end

local function span(class, text)
  return ('<span class="%s">%s</span>'):format(class, escape(text))
end

-- What begins at a place: a pattern, and the class of what it matches. The first that fits counts.
local tokens = {
  { "^%-%-[^\n]*", "c" },
  { "^%[%[.-%]%]", "s" },
  { '^"[^"\n]*"', "s" },
  { "^'[^'\n]*'", "s" },
}

local function read_token(text, at)
  for _, token in ipairs(tokens) do
    local found = text:match(token[1], at)
    if found then
      return found, span(token[2], found)
    end
  end
  local word = text:match("^[%a_][%w_]*", at)
  if word then
    return word, keywords[word] and span("k", word) or word
  end
  local other = text:match("^[^%a_%-%['\"]+", at) or text:sub(at, at)
  return other, escape(other)
end

local function lua(text)
  local out, at = {}, 1
  while at <= #text do
    local token, html = read_token(text, at)
    out[#out + 1] = html
    at = at + #token
  end
  return table.concat(out)
end

-- Where a block has prompts, what is typed stands out from what is answered.
local function shell(text)
  local lines = {}
  for line in (text .. "\n"):gmatch("(.-)\n") do
    lines[#lines + 1] = line:find("^%$ ") and span("t", line) or escape(line)
  end
  return table.concat(lines, "\n")
end

local languages = { lua = lua, sh = shell, text = shell }

--- HTML of a block of code.
---@param language string
---@param text string
---@return string
return function(language, text)
  return (languages[language] or escape)(text)
end

-- Flame graphs: folded stacks as a picture, an SVG that needs nothing but a browser.
--
--     local flame = require "fasterlua.flame"
--     local svg = flame.svg("main;parse 3\nmain;render 9\n", { title = "shop" })

local flame = {}

local WIDTH, MARGIN, ROW, TEXT = 1200, 12, 19, 6.65 -- pixels; TEXT: of a letter
local HEAD, FOOT = 78, 14
local NARROWEST = 0.2 -- pixels of a frame that is drawn

---@class fasterlua.flame.Frame
---@field name string
---@field count integer samples of it and of what it called
---@field children table<string, fasterlua.flame.Frame>

---@class fasterlua.flame.Options
---@field title? string
---@field subtitle? string

local function new_frame(name)
  return { name = name, count = 0, children = {} }
end

local function add_stack(root, stack, count)
  local frame = root
  root.count = root.count + count
  for name in stack:gmatch("[^;]+") do
    frame.children[name] = frame.children[name] or new_frame(name)
    frame = frame.children[name]
    frame.count = frame.count + count
  end
end

--- Reads folded stacks: lines "a;b;c 12". Lines that begin with # are skipped.
---@param folded string
---@return fasterlua.flame.Frame root
function flame.parse(folded)
  local root = new_frame("all")
  for line in folded:gmatch("[^\n]+") do
    local stack, count = line:match("^([^#].*) (%d+)$")
    if stack then
      add_stack(root, stack, tonumber(count))
    end
  end
  return root
end

local function sorted(children)
  local list = {}
  for _, frame in pairs(children) do
    list[#list + 1] = frame
  end
  table.sort(list, function(a, b) return a.name < b.name end)
  return list
end

-- Colours

-- The module of a Lua function: "app.lua" of "total app.lua:12".
local function module_of(name)
  return name:match("([^ ]+):%d+$")
end

local function hash(text)
  local value = 5381
  for index = 1, #text do
    value = (value * 33 + text:byte(index)) % 65521
  end
  return value
end

-- Warm colours are the app's functions, one for each module with a shade for each function; cool
-- ones the framework's; grey is what is no Lua.
local function colour_of(name)
  local module = module_of(name)
  if name:find("^%[") or name == "all" then
    return "hsl(210,8%,80%)"
  elseif name:find("^%u+ /") then
    return "hsl(210,22%,72%)"
  elseif not module then
    return ("hsl(165,28%%,%d%%)"):format(70 + hash(name) % 9)
  end
  local shade = 62 + hash(name) % 12
  if module:find("^fasterlua/") then
    return ("hsl(%d,48%%,%d%%)"):format(198 + hash(module) % 34, shade + 6)
  end
  return ("hsl(%d,82%%,%d%%)"):format(4 + hash(module) % 50, shade)
end

-- Text

local escapes = { ["&"] = "&amp;", ["<"] = "&lt;", [">"] = "&gt;", ['"'] = "&quot;" }

-- One code point of well-formed UTF-8 at `at`: its last byte's place.
local function code_point_end(text, at)
  local first = text:byte(at)
  local size = first < 0x80 and 1 or first < 0xC2 and 0 or first < 0xE0 and 2 or first < 0xF0 and 3
    or first < 0xF5 and 4 or 0
  local rest = text:sub(at + 1, at + size - 1)
  if size == 0 or #rest ~= size - 1 or rest:find("[^\128-\191]") then
    return nil
  end
  local second = rest:byte(1)
  local is_wrong = first == 0xE0 and second < 0xA0 or first == 0xED and second > 0x9F
    or first == 0xF0 and second < 0x90 or first == 0xF4 and second > 0x8F
    or first == 0xEF and second == 0xBF and rest:byte(2) > 0xBD
  return not is_wrong and at + size - 1 or nil
end

-- The letters that XML can hold; others become "?".
local function letters_of(text)
  local letters, at = {}, 1
  while at <= #text do
    local last = code_point_end(text, at)
    local letter = last and text:sub(at, last) or "?"
    letters[#letters + 1] = letter:find("%c") and "?" or escapes[letter] or letter
    at = (last or at) + 1
  end
  return letters
end

local function escape(text)
  return table.concat(letters_of(text))
end

local function fit(name, width)
  local letters = letters_of(name)
  local room = math.floor((width - 6) / TEXT)
  if #letters <= room then
    return table.concat(letters)
  end
  return room >= 3 and table.concat(letters, "", 1, room - 1) .. "…" or ""
end

-- Drawing

local style = [[
svg { background: #fff; font-family: ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace; }
text { font-size: 11px; fill: #111; }
.title { font-family: system-ui, "DejaVu Sans", sans-serif; font-size: 17px; font-weight: 600; }
.about { font-family: system-ui, "DejaVu Sans", sans-serif; font-size: 12px; fill: #555; }
g.f rect { stroke: #fff; stroke-width: 0.6; rx: 2px; }
g.f text { pointer-events: none; }
g.f:hover rect { stroke: #111; stroke-width: 1; }
g.f { cursor: pointer; }
g.f.found rect { stroke: #7a0fb8; stroke-width: 2; }
g.f.found text { font-weight: 700; }
.action { cursor: pointer; fill: #0b62a8; text-decoration: underline; }
]]

-- A click shows a frame at full width, a click on the lowest one everything. "Search" marks the
-- frames whose name has a text, as what stands behind # in the address does, and tells their share:
-- of frames upon each other the lowest counts. Without scripts the picture is complete.
local script = [[
(function () {
  var frames = Array.prototype.slice.call(document.querySelectorAll("g.f"));
  frames.forEach(function (frame) {
    var rect = frame.querySelector("rect");
    frame.at = +rect.getAttribute("x"); frame.wide = +rect.getAttribute("width");
    frame.up = +rect.getAttribute("y");
    frame.full = frame.querySelector("title").textContent.replace(/\n[^]*$/, "");
    frame.addEventListener("click", function () { show(frame); });
  });
  function label(frame, x, width) {
    var text = frame.querySelector("text"), room = Math.floor((width - 6) / LETTER);
    if (!text) {
      text = document.createElementNS("http://www.w3.org/2000/svg", "text");
      text.setAttribute("y", frame.up + 13); frame.appendChild(text);
    }
    text.setAttribute("x", x + 4);
    text.textContent = frame.full.length <= room ? frame.full
      : room >= 3 ? frame.full.slice(0, room - 1) + "\u2026" : "";
  }
  function show(focus) {
    var scale = (WIDTH - 2 * MARGIN) / focus.wide;
    frames.forEach(function (frame) {
      var rect = frame.querySelector("rect"), below = frame.up > focus.up;
      var inside = frame.at >= focus.at - 0.01
        && frame.at + frame.wide <= focus.at + focus.wide + 0.01;
      var around = below && frame.at <= focus.at + 0.01
        && frame.at + frame.wide >= focus.at + focus.wide - 0.01;
      var x = around ? MARGIN : MARGIN + (frame.at - focus.at) * scale;
      var width = around ? WIDTH - 2 * MARGIN : frame.wide * scale;
      frame.style.display = around || (inside && !below) ? "" : "none";
      rect.setAttribute("x", x); rect.setAttribute("width", width);
      frame.style.opacity = around && frame !== focus ? 0.6 : 1;
      label(frame, x, width);
    });
  }
  var search = document.getElementById("search"), found = document.getElementById("found");
  found.textContent = "a click enlarges a frame";
  search.textContent = "Search";
  search.addEventListener("click", function () {
    var wanted = window.prompt("Mark the functions whose name has:", "");
    if (wanted !== null) { mark(wanted.toLowerCase()); }
  });
  function mark(wanted) {
    var marked = frames.filter(function (frame) {
      var is = wanted !== "" && frame.full.toLowerCase().indexOf(wanted) >= 0;
      frame.classList.toggle("found", is);
      return is;
    });
    var share = 0;
    marked.forEach(function (frame) {
      var covered = marked.some(function (other) {
        return other.up > frame.up && other.at <= frame.at + 0.01
          && other.at + other.wide >= frame.at + frame.wide - 0.01;
      });
      if (!covered) { share += frame.wide; }
    });
    found.textContent = wanted === "" ? "" : marked.length + " frames have \u201c" + wanted
      + "\u201d: " + (100 * share / (WIDTH - 2 * MARGIN)).toFixed(1) + " %";
  }
  if (location.hash.length > 1) { mark(decodeURIComponent(location.hash.slice(1)).toLowerCase()); }
})();
]]

local function depth_of(frame)
  local deepest = 0
  for _, child in pairs(frame.children) do
    deepest = math.max(deepest, depth_of(child))
  end
  return deepest + 1
end

local function draw_frame(out, picture, frame, x, width, level)
  local y = picture.bottom - (level + 1) * ROW
  local share = 100 * frame.count / picture.total
  local label = fit(frame.name, width)
  out[#out + 1] = ('<g class="f"><title>%s\n%d of %d samples, %.1f %%</title>'):format(
    escape(frame.name), frame.count, picture.total, share)
  out[#out + 1] = ('<rect x="%.2f" y="%d" width="%.2f" height="%d" fill="%s"/>'):format(
    x, y, width, ROW - 1, colour_of(frame.name))
  if label ~= "" then
    out[#out + 1] = ('<text x="%.2f" y="%d">%s</text>'):format(x + 4, y + 13, label)
  end
  out[#out + 1] = "</g>\n"
end

local function draw(out, picture, frame, x, level)
  local width = frame.count * picture.scale
  if width < NARROWEST then
    return
  end
  draw_frame(out, picture, frame, x, width, level)
  for _, child in ipairs(sorted(frame.children)) do
    draw(out, picture, child, x, level + 1)
    x = x + child.count * picture.scale
  end
end

local function draw_head(out, options, height)
  out[#out + 1] = '<?xml version="1.0" encoding="UTF-8" standalone="no"?>\n'
  out[#out + 1] = ('<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" '
    .. 'viewBox="0 0 %d %d">\n'):format(WIDTH, height, WIDTH, height)
  out[#out + 1] = "<style>\n" .. style .. "</style>\n"
  out[#out + 1] = ('<rect width="%d" height="%d" fill="#fff"/>\n'):format(WIDTH, height)
  out[#out + 1] = ('<text class="title" x="%d" y="26">%s</text>\n'):format(MARGIN,
    escape(options.title or "Flame graph"))
  out[#out + 1] = ('<text class="about" x="%d" y="45">%s</text>\n'):format(MARGIN,
    escape(options.subtitle or ""))
end

local legend = {
  { "the app", "hsl(25,82%,68%)" }, { "fasterlua", "hsl(210,48%,74%)" },
  { "built in, C", "hsl(165,28%,74%)" }, { "outside of Lua", "hsl(210,8%,80%)" },
}

local function draw_legend(out)
  local x = WIDTH - MARGIN - #legend * 110
  for index, entry in ipairs(legend) do
    local left = x + (index - 1) * 110
    out[#out + 1] = ('<rect x="%d" y="17" width="10" height="10" rx="2" fill="%s"/>'):format(
      left, entry[2])
    out[#out + 1] = ('<text class="about" x="%d" y="26">%s</text>\n'):format(left + 15, entry[1])
  end
  out[#out + 1] = ('<text class="about" id="found" x="%d" y="64" text-anchor="end"></text>\n')
    :format(WIDTH - MARGIN - 60)
  out[#out + 1] = ('<text class="about action" id="search" x="%d" y="64" text-anchor="end">'
    .. "</text>\n"):format(WIDTH - MARGIN)
end

--- Draws folded stacks. Equal stacks give equal pictures.
---@param folded string
---@param options? fasterlua.flame.Options
---@return string svg
function flame.svg(folded, options)
  local root, out = flame.parse(folded), {}
  local height = HEAD + depth_of(root) * ROW + FOOT
  local picture = { bottom = height - FOOT, total = math.max(root.count, 1),
    scale = (WIDTH - 2 * MARGIN) / math.max(root.count, 1) }
  draw_head(out, options or {}, height)
  draw_legend(out)
  draw(out, picture, root, MARGIN, 0)
  out[#out + 1] = "<script><![CDATA[\n" .. script:gsub("%u%u%u%u+",
    { WIDTH = WIDTH, MARGIN = MARGIN, LETTER = TEXT }) .. "]]></script>\n</svg>\n"
  return table.concat(out)
end

return flame

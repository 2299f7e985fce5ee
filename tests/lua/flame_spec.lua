local flame = require "fasterlua.flame"
local xml = require "support.xml"

local folded = "main;parse 30\nmain;render;escape 50\nmain 10\nother 10\n"

-- The rectangle of each frame, by its tooltip's first line.
local function frames_of(svg)
  local frames = {}
  for _, element in ipairs(xml.parse(svg)) do
    local parent = element.parent
    if parent and parent.class == "f" then
      if element.name == "title" then parent.title = element end
      if element.name == "rect" then frames[parent.title.text:match("^[^\n]*")] = element end
    end
  end
  return frames
end

describe("a flame graph", function()
  it("adds up what is above a frame", function()
    local root = flame.parse(folded .. "# a comment 5\nnothing\n")
    assert.equal(100, root.count)
    assert.equal(90, root.children.main.count)
    assert.equal(50, root.children.main.children.render.children.escape.count)
    assert.is_nil(root.children["# a comment"])
  end)

  it("has widths in proportion, and each frame upon its caller", function()
    local frames = frames_of(flame.svg(folded))
    local full = tonumber(frames.all.width)
    local function is_near(expected, frame)
      assert.is_true(math.abs(tonumber(frame.width) - expected * full) < 0.02)
    end
    is_near(0.9, frames.main)
    is_near(0.3, frames.parse)
    is_near(0.5, frames.escape)
    assert.is_true(tonumber(frames.main.y) < tonumber(frames.all.y))
    assert.is_true(tonumber(frames.escape.y) < tonumber(frames.render.y))
    assert.equal(frames.render.x, frames.escape.x)
  end)

  it("says the share in the tooltip", function()
    assert.truthy(flame.svg(folded):find("<title>escape\n50 of 100 samples, 50.0 %</title>", 1,
      true))
  end)

  it("can be searched", function()
    local svg = flame.svg(folded)
    assert.truthy(svg:find('id="search"', 1, true) and svg:find('id="found"', 1, true))
    assert.truthy(svg:find("frames have", 1, true))
    assert.is_nil(svg:find("WIDTH", 1, true))
  end)

  it("is the same whatever the order of lines", function()
    local lines = "other 10\nmain 10\nmain;render;escape 50\nmain;parse 30\n"
    assert.equal(flame.svg(folded), flame.svg(lines))
  end)

  it("has one colour for a function, and others for other modules", function()
    local one = frames_of(flame.svg("a app.lua:1 5\nb shop.lua:1 5\n"))
    local two = frames_of(flame.svg(
      "main;a app.lua:1 7\nb shop.lua:1 1\nc fasterlua/url.lua:3 1\n"))
    assert.equal(one["a app.lua:1"].fill, two["a app.lua:1"].fill)
    assert.equal(one["b shop.lua:1"].fill, two["b shop.lua:1"].fill)
    local hues = {}
    for name, frame in pairs(two) do hues[name:match("^%S+")] = frame.fill:match("hsl%((%d+)") end
    assert.not_equal(hues.a, hues.b)
    assert.is_true(tonumber(hues.a) < 60 and tonumber(hues.c) > 180)
  end)

  it("is well-formed whatever the names are", function()
    local names = { "<b>&\"'", "]]>", "caf\195\169", "bad\255\200 \237\160\128", "\239\191\191",
      "tab\tbell\7", "a:1" }
    local svg = flame.svg(table.concat(names, ";") .. " 5\n", { title = "<&>", subtitle = "\1" })
    local frames = frames_of(svg)
    assert.truthy(frames["caf\195\169"])
    assert.truthy(frames["&lt;b&gt;&amp;&quot;'"])
    assert.truthy(frames["bad?? ???"])
    assert.truthy(frames["]]&gt;"])
    assert.truthy(svg:find("&lt;&amp;&gt;", 1, true))
  end)

  it("leaves out what is too narrow to be seen, and counts it below", function()
    local frames = frames_of(flame.svg("main;rare 1\nmain;often 1000000\n"))
    assert.is_nil(frames.rare)
    assert.truthy(frames.often)
  end)

  it("may be empty", function()
    assert.truthy(frames_of(flame.svg("")))
  end)

  it("cuts long names between letters", function()
    local svg = flame.svg(("\195\169"):rep(300) .. " 9\nb 1\n")
    xml.parse(svg)
    assert.truthy(svg:find(("\195\169"):rep(20) .. "…</text>", 1, true))
  end)
end)

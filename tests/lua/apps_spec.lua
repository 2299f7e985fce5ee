local apps = require "fasterlua.apps"
local lfs = require "lfs"

local root

local function make(path, text)
  local folder = root
  for name in path:gmatch("([^/]+)/") do
    folder = folder .. "/" .. name
    lfs.mkdir(folder)
  end
  local file = assert(io.open(root .. "/" .. path, "w"))
  file:write(text or "return {}")
  file:close()
end

local function remove(path)
  if lfs.symlinkattributes(path, "mode") == "directory" then
    for name in lfs.dir(path) do
      if name ~= "." and name ~= ".." then
        remove(path .. "/" .. name)
      end
    end
    lfs.rmdir(path)
  else
    os.remove(path)
  end
end

local function find(path, mounts)
  local found = {}
  for _, app in ipairs(apps.find(path, mounts)) do
    assert.equal(root, app.folder:sub(1, #root))
    found[#found + 1] = ("%s at %s/ from %s"):format(app.name, app.prefix, app.file:sub(#root + 2))
  end
  return found
end

before_each(function()
  root = os.tmpname()
  os.remove(root)
  lfs.mkdir(root)
end)

after_each(function()
  remove(root)
end)

describe("the apps of a folder", function()
  it("are each served under their name", function()
    make("shop/app.lua")
    make("blog/app.lua")
    make("notes/readme.txt")
    assert.same({ "blog at /blog/ from blog/app.lua", "shop at /shop/ from shop/app.lua" },
      find(root))
  end)

  it("may stand beside one served at the root", function()
    make("all/app.lua")
    make("all/shop/app.lua")
    assert.same({ "all at / from all/app.lua", "shop at /shop/ from all/shop/app.lua" },
      find(root .. "/all/"))
  end)

  it("are not looked for in hidden folders", function()
    make("shop/app.lua")
    make(".old/app.lua")
    assert.same({ "shop at /shop/ from shop/app.lua" }, find(root))
  end)

  it("must have names that can stand in a URL", function()
    make("my shop/app.lua")
    assert.error_matches(function() find(root) end, "cannot be served: its name stands in URLs")
  end)

  it("must have different names", function()
    make("shop/app.lua")
    make("shop/shop/app.lua")
    assert.error_matches(function() find(root .. "/shop") end, 'two apps are called "shop"')
  end)
end)

describe("one app", function()
  it("is served at the root when its folder is named", function()
    make("shop/app.lua")
    assert.same({ "shop at / from shop/app.lua" }, find(root .. "/shop"))
  end)

  it("is served at the root when its file is named", function()
    make("shop/app.lua")
    make("shop/other.lua")
    assert.same({ "shop at / from shop/app.lua" }, find(root .. "/shop/app.lua"))
    assert.same({ "shop at / from shop/other.lua" }, find(root .. "/shop/other.lua"))
  end)
end)

describe("a relative path", function()
  it("gives an absolute folder, and the file as it was named", function()
    local here = lfs.currentdir()
    make("all/shop/app.lua")
    lfs.chdir(root .. "/all")
    finally(function() lfs.chdir(here) end)
    local folder = lfs.currentdir() .. "/shop"
    for _, path in ipairs { "shop", "./shop", "shop/", "shop/app.lua" } do
      local app = apps.find(path)[1]
      assert.equal(folder, app.folder, path)
      assert.equal("shop", app.name)
    end
    assert.equal("./shop/app.lua", apps.find(".")[1].file)
    make("all/.new/app.lua")
    assert.equal(lfs.currentdir() .. "/.new", apps.find(".new")[1].folder)
    lfs.chdir("shop")
    assert.equal(folder .. "/../shop", apps.find("../shop")[1].folder)
    assert.same({ { name = "shop", prefix = "", folder = folder, file = "./app.lua" } },
      apps.find("."))
    assert.equal(folder, apps.find("app.lua")[1].folder)
  end)
end)

describe("mounts", function()
  it("serve exactly the apps that they name", function()
    make("shop/app.lua")
    make("blog/app.lua")
    make("old/app.lua")
    assert.same({ "blog at / from blog/app.lua", "shop at /store/eu/ from shop/app.lua" },
      find(root, { ["/"] = "blog", ["/store/eu"] = "shop" }))
  end)

  it("must name apps that are there", function()
    make("shop/app.lua")
    assert.error_matches(function() find(root, { ["/store"] = "shpo" }) end,
      'mounts: /store: there is no app "shpo": did you mean "shop"?', 1, true)
  end)

  it("name an app once", function()
    make("shop/app.lua")
    assert.error_matches(function() find(root, { ["/a"] = "shop", ["/b"] = "shop" }) end,
      'the app "shop" has two prefixes')
  end)
end)

describe("when no app is found", function()
  it("what was looked for is told", function()
    local expected = ('no app in %q: looked for %s/app.lua and %s/<name>/app.lua')
      :format(root, root, root)
    assert.has_error(function() find(root) end, expected)
  end)

  it("a path that is not there is told", function()
    assert.error_matches(function() find(root .. "/none") end, "No such file or directory")
  end)
end)

describe("loading an app to look at it", function()
  local loaded

  before_each(function()
    package.loaded["fasterlua.boot"] = {
      load = function(chunk, name, values)
        return { routes = chunk(), name = name, values = values }
      end,
    }
  end)

  after_each(function()
    package.loaded["fasterlua.boot"] = nil
  end)

  it("finds its modules, and forgets them for the next app", function()
    make("a/app.lua", 'return { require "things" }')
    make("a/things.lua", 'return "of a"')
    make("b/app.lua", 'return { require "things" }')
    make("b/lua_modules/share/lua/5.1/things.lua", 'return "of b"')
    local found, path = apps.find(root), package.path
    loaded = apps.load(found[1], { drain = 1 })
    assert.same({ routes = { "of a" }, name = "a", values = { drain = 1 } }, loaded)
    assert.same({ "of b" }, apps.load(found[2], {}).routes)
    assert.equal(path, package.path)
  end)

  it("tells what is wrong with it", function()
    make("a/app.lua", "return {")
    make("b/app.lua", 'error("no database")')
    local found = apps.find(root)
    local none, problem = apps.load(found[1], {})
    assert.is_nil(none)
    assert.truthy(problem:find("a/app.lua:1: unexpected symbol near '<eof>'", 1, true), problem)
    none, problem = apps.load(found[2], {})
    assert.is_nil(none)
    assert.truthy(problem:find("b/app.lua:1: no database\nstack traceback:", 1, true), problem)
  end)
end)

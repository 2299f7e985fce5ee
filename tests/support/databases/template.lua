-- template: a folder that takes seconds to make, made once per machine and user, then copied.
--
--     template.copy("postgres-15.4 …", account, make, self.dir .. "/data")

local account = require "support.databases.account"
local lfs = require "lfs"
local process = require "support.process"

local M = {}

local function digest(text)
  local hash = 0
  for index = 1, #text do
    hash = (hash * 65599 + text:byte(index)) % 2 ^ 32 -- exact: below 2^53 throughout
  end
  return ("%08x"):format(hash)
end

-- Nobody else may have put it there.
local function home()
  local path = ("%s/fasterlua-test-templates-%d"):format(os.getenv("TMPDIR") or "/tmp",
    account.own_uid())
  os.execute("mkdir -m 700 '" .. path .. "' 2>/dev/null")
  local found = lfs.symlinkattributes(path) or {}
  if found.mode ~= "directory" or found.uid ~= account.own_uid()
    or found.permissions ~= "rwx------" then
    error("not a folder of ours alone: " .. path, 0)
  end
  return path
end

local function run(...)
  local code = os.execute((...):format(select(2, ...)))
  return code == 0 or code == true
end

-- Two tests may make it at once: the second to rename throws its own away.
local function make_template(path, owner, make)
  local dir = process.temporary_directory()
  account.give(owner, dir)
  local ok, reason = pcall(make, dir .. "/data")
  if ok and not os.rename(dir .. "/data", path) then
    ok, reason = lfs.attributes(path) ~= nil, "cannot rename to " .. path
  end
  process.remove_directory(dir)
  if not ok then
    error(reason, 0)
  end
end

---Copies a template; makes it first where there is none.
---@param key string everything that its content depends on; its first word begins its name
---@param owner support.account whose it is
---@param make fun(path: string) makes the folder `path`
---@param target string the copy, which must not exist
---@return string path of the template
function M.copy(key, owner, make, target)
  key = key .. " " .. owner.uid
  local path = ("%s/%s-%s"):format(home(), key:match("^%S+"), digest(key))
  if not lfs.attributes(path) then
    make_template(path, owner, make)
  end
  if not run("cp -a '%s' '%s'", path, target) then
    error("cannot copy " .. path, 0)
  end
  return path
end

return M

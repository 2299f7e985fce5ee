-- account: the user that a database server runs as: ourselves, or one without rights when we are
-- root.
--
--     local account = account.find { "postgres" }
--     process.spawn { argv = account.command(account, { "initdb", … }) }

local M = {}

---@class support.account
---@field name string
---@field uid integer
---@field gid integer
---@field changes boolean whether it is not the one we run as

local own_uid -- once it is known

local function output_of(command)
  local pipe = assert(io.popen(command))
  local text = pipe:read("*a")
  pipe:close()
  return text
end

---@return integer # our own
function M.own_uid()
  own_uid = own_uid or tonumber(output_of("id -u"))
  return own_uid
end

local function look_up(name)
  local uid, gid = output_of("getent passwd " .. name):match("^[^:]*:[^:]*:(%d+):(%d+):")
  return uid and { name = name, uid = tonumber(uid), gid = tonumber(gid), changes = true }
end

---@return support.account # the user that we run as
function M.own()
  return { name = "", uid = M.own_uid(), gid = tonumber(output_of("id -g")), changes = false }
end

---@param names string[] whom to become when we are root: the first that there is, at last nobody
---@return support.account
function M.find(names)
  if M.own_uid() ~= 0 then
    return M.own()
  end
  for _, name in ipairs(names) do
    local found = look_up(name)
    if found then
      return found
    end
  end
  return assert(look_up("nobody"), "there is no user without rights")
end

-- A change of user forgets the signal to get at the parent's death: it is set once more after it.
---@param account support.account
---@param argv string[]
---@return string[] # the command line that runs it as that user
function M.command(account, argv)
  if not account.changes then
    return argv
  end
  return { "setpriv", "--reuid", tostring(account.uid), "--regid", tostring(account.gid),
    "--clear-groups", "--", "setpriv", "--pdeathsig", "TERM", "--", unpack(argv) }
end

---Makes a folder, with what is in it, the account's.
---@param account support.account
---@param path string
function M.give(account, path)
  if account.changes then
    local code = os.execute(("chown -R %d:%d '%s'"):format(account.uid, account.gid, path))
    assert(code == 0 or code == true, "cannot give away " .. path)
  end
end

return M

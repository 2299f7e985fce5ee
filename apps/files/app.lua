-- Files go in and out in pieces: whatever their size, little of them is in memory at a time, and a
-- slow peer holds up nobody but itself.
--
--     curl -T photo.jpg http://127.0.0.1:8000/files/photo.jpg
--     curl -O http://127.0.0.1:8000/files/photo.jpg
--
-- They live in the folder that FILES_DIR names, else in data/ beside this file.
local fl = require "fasterlua"
local await = fl.await

local FOLDER = os.getenv("FILES_DIR") or "data"
local MOST_BYTES = 64 * 1024 * 1024
local UPLOAD_SECONDS = 600

local app = fl.app { title = "Files" }

-- A leading dot is for uploads that are not complete; without "/" no name leads out of the folder.
local function path_of(name)
  if #name > 100 or not name:find("^%w[%w._-]*$") then
    error(fl.http_error(422, "a name is made of letters, digits and . _ - (not first)"), 0)
  end
  return FOLDER .. "/" .. name
end

local function is_fs_error(err, code)
  return type(err) == "table" and err.kind == "fs" and err.code == code
end

-- The value of a future, or nil when the file or folder is not there.
local function if_there(future)
  local ok, result = pcall(await, future)
  if ok then
    return result
  elseif not is_fs_error(result, "ENOENT") then
    error(result, 0)
  end
end

local function make_folder()
  local ok, err = pcall(await, fl.fs.mkdir(FOLDER))
  if not ok and not is_fs_error(err, "EEXIST") then
    error(err, 0)
  end
end

local function check_file(path)
  local stat = if_there(fl.fs.stat(path))
  if not stat or stat.type ~= "file" then
    error(fl.http_error(404, "no such file"), 0)
  end
end

app:get("/", function()
  local files = fl.array {}
  for _, name in ipairs(if_there(fl.fs.list(FOLDER)) or {}) do
    local stat = name:sub(1, 1) ~= "." and if_there(fl.fs.stat(FOLDER .. "/" .. name))
    if stat and stat.type == "file" then
      files[#files + 1] = { name = name, size = stat.size }
    end
  end
  return { files = files }
end)

-- The client is held back while a piece is being written.
local function receive(req, path)
  local size = 0
  await(fl.fs.write(path, ""))
  for chunk in req:chunks() do
    await(fl.fs.append(path, chunk))
    size = size + #chunk
  end
  return size
end

local function store(req, temporary, path)
  local size = receive(req, temporary)
  await(fl.fs.rename(temporary, path))
  return size
end

local function remove(path)
  return if_there(fl.fs.remove(path))
end

app:put("/{name}", { max_body = MOST_BYTES, timeout = UPLOAD_SECONDS }, function(req)
  local name = req.params.name
  local path = path_of(name)
  make_folder()
  local temporary = ("%s/.%s"):format(FOLDER, fl.digest.base64url(fl.digest.random(15)))
  local ok, result = pcall(store, req, temporary, path)
  if not ok then
    fl.shield(remove, temporary)
    error(result, 0)
  end
  return { name = name, size = result }, 201
end)

-- `write` waits while the client does not read, so the next piece is read only when it is wanted.
app:get("/{name}", function(req)
  local path = path_of(req.params.name)
  check_file(path)
  return fl.stream(function(write)
    for piece in fl.fs.chunks(path) do
      write(piece)
    end
  end, {
    headers = {
      ["Content-Disposition"] = "attachment",
      ["X-Content-Type-Options"] = "nosniff",
    },
  })
end)

app:delete("/{name}", function(req)
  local path = path_of(req.params.name)
  check_file(path)
  remove(path)
end)

return app

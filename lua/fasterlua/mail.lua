-- Sends mail by SMTP.
--
--     await(fl.mail.send {
--       server = "smtp://mail.example.org:587", username = "shop", password = secret,
--       from = "Shop <shop@example.org>", to = "ann@example.org",
--       subject = "Your order", text = "Thank you!",
--     })

local dialogue = require "fasterlua.mail.dialogue"
local driver = require "fasterlua.http.driver"
local exchange = require "fasterlua.http.exchange"
local failure = require "fasterlua.failure"
local fault = require "fasterlua.http.fault"
local message = require "fasterlua.mail.message"
local suggest = require "fasterlua.suggest"
local task = require "fasterlua.task"
local units = require "fasterlua.units"

local mail = {}

local USE_TLS = { [false] = 0, optional = 1, required = 3 } -- CURLUSESSL_…

---@class fasterlua.MailOptions
---@field server string smtp://host:port, or smtps://host:port
---@field username? string
---@field password? string
---@field from string an address: "ann@example.org", "Ann Lee <ann@example.org>"
---@field to? string|string[]
---@field cc? string|string[]
---@field bcc? string|string[] not named in the message
---@field subject? string
---@field text? string
---@field html? string
---@field attachments? fasterlua.MailAttachment[]
---@field headers? table<string, string>
---@field timeout? number|string seconds in all; default 30
---@field connect_timeout? number|string seconds until the server takes mail; default 10
---@field starttls? "required"|"optional"|false default "required" on port 587 and where there is a
---  password, else "optional"
---@field verify? boolean whether the server's certificate is verified; default true
---@field ca? string path of the certificates to trust

local types = {
  server = "string", username = "string", password = "string", from = "string",
  to = "string or table", cc = "string or table", bcc = "string or table", subject = "string",
  text = "string", html = "string", attachments = "table", headers = "table",
  timeout = "number or string", connect_timeout = "number or string",
  starttls = "string or boolean",
  verify = "boolean", ca = "string",
}
local names = {}
for name in pairs(types) do
  names[#names + 1] = name
end
table.sort(names)

local times = { timeout = true, connect_timeout = true }

local function is_time(value)
  local seconds = units.seconds(value)
  return seconds ~= nil and seconds > 0 and seconds <= 1e6
end

local function check_option(name, value)
  if not types[name] then
    local hint = suggest.hint(tostring(name), names)
    error(("mail: unknown option %q%s"):format(tostring(name), hint), 0)
  elseif not types[name]:find(type(value), 1, true) then
    error(("mail: option %q must be a %s, got %s"):format(name, types[name], type(value)), 0)
  elseif times[name] and not is_time(value) then
    local words = 'seconds above 0 and up to 1000000, or a time as "500ms"'
    error(("mail: option %q must be %s, got %s"):format(name, words, tostring(value)), 0)
  end
end

local function check(options)
  if type(options) ~= "table" then
    error(("mail: a table of options expected, got %s"):format(type(options)), 0)
  end
  for name, value in pairs(options) do
    check_option(name, value)
  end
  if not options.server then
    error('mail: the option "server" is missing', 0)
  elseif options.starttls ~= nil and not USE_TLS[options.starttls] then
    error('mail: option "starttls" must be "required", "optional" or false', 0)
  elseif (options.username == nil) ~= (options.password == nil) then
    error("mail: username and password go together", 0)
  end
end

local function parse(server)
  local parts, why = driver.load().url(server)
  if not parts or parts.scheme ~= "smtp" and parts.scheme ~= "smtps" then
    error(fault.new("url", "server must be smtp://host:port or smtps://host:port"
      .. (why and ": " .. why or ""), nil, "mail"), 0)
  end
  return parts
end

local function starttls(options, parts)
  if options.starttls ~= nil then
    return options.starttls
  end
  return (parts.port == "587" or options.username) and "required" or "optional"
end

local function run(options, built)
  local parts = parse(options.server)
  local connection = exchange.open({
    is_mail = true, url = parts.url, username = options.username or parts.user,
    password = options.password or parts.password, use_tls = USE_TLS[starttls(options, parts)],
    timeout = units.seconds(options.timeout or 30),
    connect_timeout = units.seconds(options.connect_timeout or 10),
    max_body = 0, insecure = options.verify == false, ca = options.ca,
  }, parts.url, "mail")
  failure.finally(exchange.release, connection, dialogue.run, connection, built)
  return { id = built.id, recipients = built.recipients }
end

--- Sends a mail: a future of its Message-ID and its recipients. What cannot be sent is raised at
--- once, naming the field; what the server refuses is an HttpClientError of kind "mail".
---@param options fasterlua.MailOptions
---@return fasterlua.Future # { id: string, recipients: string[] }
function mail.send(options)
  local ok, problem = pcall(check, options)
  local built
  if ok then
    ok, problem = pcall(message.build, options)
    built = problem
  end
  if not ok then
    error(problem, 2)
  end
  return task.spawn(run, options, built)
end

return mail

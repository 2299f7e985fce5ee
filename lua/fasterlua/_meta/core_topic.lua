---@meta fasterlua.core.topic
-- luacheck: ignore 212 241
-- Provided by C: publish and subscribe between states and server processes. `fasterlua.topic` adds
-- to the methods.

---@class fasterlua.core.topic
---@field metatable table of all topics; its `__index` holds their methods
---@field subscription table the same of subscriptions
local topic = {}

---@param name string
---@return fasterlua.Topic
function topic.open(name) end

---@param self fasterlua.Topic
---@param ... any
---@return integer|nil subscribers of this server process
---@return table? problem
function topic.publish(self, ...) end

---@param self fasterlua.Topic
---@param buffer integer
---@param policy "drop_oldest"|"drop_newest"|"close"
---@return fasterlua.Subscription
function topic.subscribe(self, buffer, policy) end

---@param subscription fasterlua.Subscription
---@return userdata|nil op
---@return table? problem
function topic.next(subscription) end

--- The message has reached whom it was for.
---@param op userdata
function topic.received(op) end

--- The message has reached nobody: it is the next one again.
---@param op userdata
function topic.put_back(op) end

--- Whether what runs now belongs to a request or job that has not ended.
---@return boolean
function topic.has_request() end

return topic

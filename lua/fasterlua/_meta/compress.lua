---@meta fasterlua.compress
-- luacheck: ignore 212 241
-- Provided by C: compression, by the names of Content-Encoding.
--
--     local compress = require "fasterlua.compress"
--     local packed = compress.compress("gzip", text)
--     compress.decompress("gzip", packed, { limit = "10MB" }) -- text
--
-- Both compute and do not wait: large data belongs in another state (fl.run_in_state).

---@alias fasterlua.compress.Format
---| "gzip" RFC 1952
---| "deflate" zlib's format, RFC 1950
---| "br" brotli, RFC 7932
---| "zstd" RFC 8878, with a checksum

---@class fasterlua.compress.Options
---@field level? integer gzip and deflate 0 to 9 (6), br 0 to 11 (5), zstd 1 to 19 (3)

---@class fasterlua.compress.Limits
---@field limit? integer|string the most bytes that may come out, to 1GB ("64MB")

---@class fasterlua.compress
local compress = {}

---@param format fasterlua.compress.Format
---@param data string
---@param options? fasterlua.compress.Options
---@return string
function compress.compress(format, data, options) end

--- Raises for data that is corrupt, ends too early, is followed by something else or holds more
--- than the limit. Several gzip members or zstd frames in a row are one text, as their formats say.
---@param format fasterlua.compress.Format
---@param data string
---@param options? fasterlua.compress.Limits
---@return string
function compress.decompress(format, data, options) end

return compress

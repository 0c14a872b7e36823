-- Tries each command that the other scripts use, on keys that cannot exist, so that a missing right is
-- found when a node is connected and not when a lock is half taken. Leaves nothing behind.
--
-- KEYS:    two probe keys of one slot
-- ARGV[1]: the client's channel
-- answer:  '' or the first command that the user may not run

local calls = {
  { 'GET', KEYS[1] }, { 'SET', KEYS[1], '', 'XX', 'PX', 1 }, { 'PTTL', KEYS[1] }, { 'PEXPIRE', KEYS[1], 1 },
  { 'DEL', KEYS[1] }, { 'INCR', KEYS[1] }, { 'DEL', KEYS[1] }, { 'ZADD', KEYS[2], 'XX', 0, '' }, { 'ZREM', KEYS[2], '' },
  { 'ZCARD', KEYS[2] }, { 'ZRANGE', KEYS[2], 0, 0 }, { 'ZRANK', KEYS[2], '' },
  { 'ZRANGEBYSCORE', KEYS[2], 0, 0 }, { 'ZSCORE', KEYS[2], '' }, { 'TIME' },
  { 'PUBLISH', ARGV[1], '' },
}
for _, call in ipairs(calls) do
  local answer = redis.pcall(unpack(call))
  local refusal = type(answer) == 'table' and answer.err
  -- A key or channel out of reach is no proof: the user's names may lie within. A command may be renamed away, too.
  if refusal and (string.find(refusal, "can't run this command", 1, true)
    or string.find(refusal, 'no permissions to run', 1, true)
    or string.find(refusal, 'command called from', 1, true)) then return call[1] end
end
return ''

-- Who holds, who waits. Changes nothing.
--
-- KEYS: lock, queue, waiters, seq
-- ARGV[1] most waiters to list
-- answer: {ms clock, holder or '', ms left of it, seq or 0, waiters in all, then id, number and ms clock
--          when the waiter ttl ends of each waiter in order}

local clock = redis.call('TIME')
local now = math.floor((clock[1] * 1000000 + clock[2]) / 1000)
-- Another client's value may be of any length; ours never have so much.
local holder = string.sub(redis.call('GET', KEYS[1]) or '', 1, 1024)
local answer = { now, holder, redis.call('PTTL', KEYS[1]),
  tonumber(redis.call('GET', KEYS[4])) or 0, redis.call('ZCARD', KEYS[2]) }
local line = redis.call('ZRANGE', KEYS[2], 0, ARGV[1] - 1, 'WITHSCORES')
for i = 1, #line, 2 do
  answer[#answer + 1] = line[i]
  answer[#answer + 1] = tonumber(line[i + 1])
  answer[#answer + 1] = tonumber(redis.call('ZSCORE', KEYS[3], line[i])) or 0
end
return answer

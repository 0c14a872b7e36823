-- Records or refreshes a ticket: the first request, the agreed number, a keep-alive, a vote given back.
--
-- A newer generation of a request takes the place of the older ones: their vote and ticket are given up
-- in the same call. With the number of its ticket the request keeps its place (F1, C2); without one it
-- is new, gets the vote if nobody is in the way (F4), or the next number if there is room.
--
-- ARGV[7] lease  ms; the waiter ttl                                        (F2, F3)
-- group:  id, number ('' if new), ttl ms, room (most waiters; '' unlimited)
-- answer: {1, seq, ms left of the vote, 1 if a waiter here comes before}     granted
--         {2, number, waiters ahead, ms clock when the waiter ttl ends, ms left of the holder}  waiting
--         {waiters, ms left of the holder}                                   full
--         3                                                                  superseded
-- The forms differ by more than one value, so that no answer without a vote is one fault away from a vote.
-- Upholds F1, F2, F3, F4, S4.

local lease = tonumber(ARGV[7])
local c

-- Whether `a` sorts before `b` among equal numbers, by bytes as in the queue.
local function before(a, b)
  for i = 1, math.min(#a, #b) do
    local x, y = string.byte(a, i), string.byte(b, i)
    if x ~= y then return x < y end
  end
  return #a < #b
end

local function newer_is_here(queue, id, number, holder)
  local g, request = c.generation(id), c.request(id)
  if holder and c.request(holder) == request then return c.generation(holder) > g end
  if not number then
    for _, other in ipairs(c.newer(id)) do
      if redis.call('ZSCORE', queue, other) then return true end
    end
    return false
  end
  for _, other in ipairs(redis.call('ZRANGEBYSCORE', queue, number, number)) do
    if c.request(other) == request and c.generation(other) > g then return true end
  end
  return false
end

local function enqueue(lock, queue, waiters, seq, id, number, ttl, room)
  local waiting = redis.call('ZCARD', queue)
  if waiting == 0 and not number and redis.call('SET', lock, id, 'NX', 'PX', ttl) then
    return { 1, count(seq), ttl, 0 }
  end
  c = c or contended()
  if number then write_without_memory(waiters) end
  local holder = redis.call('GET', lock)
  local mine
  if waiting > 0 then
    c.drop_dead(queue, waiters)
    mine = tonumber(redis.call('ZSCORE', queue, id))
  end
  if holder ~= id and not mine then
    if newer_is_here(queue, id, number, holder) then return 3 end
    if holder and c.request(holder) == c.request(id) then
      redis.call('DEL', lock)
      holder = false
    end
    local past = c.older(id)
    if #past > 0 then
      redis.call('ZREM', queue, unpack(past))
      redis.call('ZREM', waiters, unpack(past))
    end
  end
  if holder == id then
    local left, least = redis.call('PTTL', lock), math.min(ttl, lease)
    if left < least then
      redis.call('PEXPIRE', lock, least)
      left = least
    end
    local head = redis.call('ZRANGE', queue, 0, 0, 'WITHSCORES')
    local rank = number and head[1] and tonumber(head[2])
    local outranked = rank and (rank < number or rank == number and before(head[1], id))
    return { 1, count(seq, number or 0), left, outranked and 1 or 0 }
  end
  number = number or mine
  if number then
    count(seq, number)
  else
    if not holder and waiting > 0 then holder = c.settle(lock, queue, waiters, seq) end
    waiting = waiting > 0 and redis.call('ZCARD', queue) or 0
    -- Behind more dead than this call may drop there may be somebody alive (F4).
    if not holder and waiting == 0 then
      redis.call('SET', lock, id, 'PX', ttl)
      return { 1, count(seq), ttl, 0 }
    end
    if room and waiting >= room then return { waiting, redis.call('PTTL', lock) } end
    number = count(seq)
  end
  c.record(queue, waiters, id, number, lease)
  local own = math.min(ttl, lease)
  if c.settle(lock, queue, waiters, seq, id, own) == id then return { 1, count(seq, 0), own, 0 } end
  return { 2, number, redis.call('ZRANK', queue, id), now + lease, redis.call('PTTL', lock) }
end

for g = 0, #KEYS / 4 - 1 do
  local k, a = 4 * g, 7 + 4 * g
  answers[g + 2] = enqueue(KEYS[k + 1], KEYS[k + 2], KEYS[k + 3], KEYS[k + 4], ARGV[a + 1],
    tonumber(ARGV[a + 2]), tonumber(ARGV[a + 3]), tonumber(ARGV[a + 4]))
end
return answers

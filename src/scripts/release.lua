-- Gives up lease, vote and ticket of a request, whichever there is, in this generation and the older ones.
--
-- Harms nobody else at any time, so it has no deadline (ARGV[1] is 0). Deletes before it writes: a server
-- that is out of memory still releases.
--
-- group:  id
-- answer: {2} a vote, {1} a ticket, {0} nothing was here
-- Upholds S4, C1, C3.

local c

local function release(lock, queue, waiters, seq, id)
  local holder, had = redis.call('GET', lock), 0
  if holder == id then
    redis.call('DEL', lock)
    had = 2
  end
  local waiting = redis.call('ZCARD', queue)
  if had == 2 and waiting == 0 then return { had } end
  c = c or contended()
  if had == 0 and holder and c.request(holder) == c.request(id)
    and c.generation(holder) <= c.generation(id) then
    redis.call('DEL', lock)
    had = 2
  end
  if waiting > 0 then
    local ids = c.older(id)
    ids[#ids + 1] = id
    if redis.call('ZREM', queue, unpack(ids)) > 0 and had == 0 then had = 1 end
    redis.call('ZREM', waiters, unpack(ids))
    c.drop_dead(queue, waiters)
    c.settle(lock, queue, waiters, seq)
  end
  return { had }
end

for g = 0, #KEYS / 4 - 1 do
  local k = 4 * g
  answers[g + 2] = release(KEYS[k + 1], KEYS[k + 2], KEYS[k + 3], KEYS[k + 4], ARGV[7 + g])
end
return answers

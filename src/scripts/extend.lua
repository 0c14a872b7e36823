-- Prolongs a lease and raises the counter to its fencing token.
--
-- Nothing shortens a lease, and nothing but a repair creates one. A repair takes the vote again on a node
-- that forgot it or gave it to a waiter. Where another has it, the holder stands in line with number 0, so
-- that a vote given back comes to it first (L5), and the other is told to look, so that it gives back at
-- once. A ttl of 0 prolongs nothing and asks whether the vote stands.
--
-- group:  id, ttl ms, fencing token, 1 for a repair
-- answer: {1, seq} extended; 2 in line for a repair; 0 the vote is not here
-- Upholds S2, S4, L5.

local c

local function extend(lock, queue, waiters, seq, id, ttl, token, repair)
  local holder = redis.call('GET', lock)
  if holder == id then
    write_without_memory(waiters)
    if ttl > 0 and redis.call('PTTL', lock) < ttl then redis.call('PEXPIRE', lock, ttl) end
    return { 1, count(seq, token, ttl > 0) }
  end
  c = c or contended()
  write_without_memory(waiters)
  c.drop_dead(queue, waiters)
  if not repair then
    c.settle(lock, queue, waiters, seq)
    return 0
  end
  if holder and c.request(holder) ~= c.request(id) then
    c.record(queue, waiters, id, 0, ttl)
    c.tell(holder, 0, 0)
    return 2
  end
  redis.call('ZREM', queue, id)
  redis.call('ZREM', waiters, id)
  redis.call('SET', lock, id, 'PX', ttl)
  return { 1, count(seq, token) }
end

for g = 0, #KEYS / 4 - 1 do
  local k, a = 4 * g, 6 + 4 * g
  answers[g + 2] = extend(KEYS[k + 1], KEYS[k + 2], KEYS[k + 3], KEYS[k + 4], ARGV[a + 1],
    tonumber(ARGV[a + 2]), tonumber(ARGV[a + 3]), ARGV[a + 4] == '1')
end
return answers

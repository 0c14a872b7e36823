-- What the other scripts share; the client puts it in front of each of them.
--
-- Every mutating call starts with the same values:
--   ARGV[1] deadline  ms of this node's clock after which nothing is done; 0: none   (S4)
--   ARGV[2] seed      us; the clock by which counters start and are kept; 0: this node's own
--   ARGV[3] extra     us; added to that start while a node is in its restart grace (S2)
--   ARGV[4] floor     us; a counter below it is from before this run of the server and not trusted (S2)
--   ARGV[5] keep      ms; how long counters are kept when that clock has passed them
--   ARGV[6] unheard   ms; how long a vote lasts of which nobody heard
-- followed by one group of values for each group of four KEYS: lock, queue, waiters, seq.
-- The answer is an array: ms of this node's clock, then one answer a group; only the clock if too late.

local clock = redis.call('TIME')
local micros = clock[1] * 1000000 + clock[2]
local now = math.floor(micros / 1000)
if tonumber(ARGV[1]) > 0 and now > tonumber(ARGV[1]) then return { now } end
local answers = { now }

local seed, floor = tonumber(ARGV[2]), tonumber(ARGV[4])
if seed == 0 then seed = micros end

-- Raises the counter: to `least`, or by one if that is nil. It is kept until the clock has passed it by some
-- time, so that what it would start from again is always higher. `rearm` says that it is still in use.
-- A server may come back with an older state, and with a counter that has repeated itself by then: one from
-- before this run of the server counts as absent, but is never lowered.
local function count(key, least, rearm)
  local seq, value
  if least then
    seq = tonumber(redis.call('GET', key))
    value = seq
  else
    value = redis.call('INCR', key)
    seq = value > 1 and value
  end
  if not seq or seq < floor then value = math.max(value or 0, seed + tonumber(ARGV[3])) end
  if least and least > value then value = least end
  local keep = tonumber(ARGV[5]) + math.max(0, math.ceil((value - seed) / 1000))
  if value ~= seq then
    redis.call('SET', key, string.format('%.0f', value), 'PX', keep)
  elseif rearm or not least then
    redis.call('PEXPIRE', key, keep)
  end
  return value
end

-- Redis looks at its memory limit before the first write of a script that may need memory, and not after
-- another write. Keeping alive what stands here must go on when memory is full (F2): it begins with this.
local function write_without_memory(key) redis.call('ZREM', key, '') end

-- How many waiters this call may still look at one by one, or drop: a batch of requests that meet long lines of
-- dead waiters must not stop the server. What is left to do is done by the calls that come after it.
local budget = 1000

-- What only those need who meet somebody else. Made when it is needed: a script defines its functions
-- anew at every call, and most calls meet nobody.
local function contended()
  local c = {}

  -- <uuid>:<generation>:<client name>:<unix ms>
  function c.request(id) return string.sub(id, 1, 36) end
  function c.generation(id) return tonumber(string.match(id, '^[^:]*:(%d+):')) or 0 end

  -- The ids of the same request under the generations from `first` to `last`.
  local function generations(id, first, last)
    local tail, ids = string.match(id, '^[^:]*:%d+(:.*)$'), {}
    for g = math.max(0, first), last do ids[#ids + 1] = c.request(id) .. ':' .. g .. tail end
    return ids
  end

  -- The ids under which the same request may stand from before it gave a vote back.
  function c.older(id) return generations(id, c.generation(id) - 8, c.generation(id) - 1) end

  -- The same from after that, where this call comes late.
  function c.newer(id) return generations(id, c.generation(id) + 1, c.generation(id) + 8) end

  -- Drops the waiters whose lease has ended, together (F3).
  function c.drop_dead(queue, waiters)
    local dead = redis.call('ZRANGEBYSCORE', waiters, '-inf', now, 'LIMIT', 0, budget)
    budget = budget - #dead
    if #dead > 0 then
      redis.call('ZREM', queue, unpack(dead))
      redis.call('ZREM', waiters, unpack(dead))
    end
  end

  -- Puts a waiter in its place, with a lease of its own.
  function c.record(queue, waiters, id, number, lease)
    redis.call('ZADD', queue, number, id)
    redis.call('ZADD', waiters, now + lease, id)
    -- Somebody may have deleted one of the two.
    if redis.call('PTTL', queue) < lease then redis.call('PEXPIRE', queue, lease) end
    if redis.call('PTTL', waiters) < lease then redis.call('PEXPIRE', waiters, lease) end
  end

  -- Where the process of a waiter listens; false if it polls.
  local function channel(id)
    return string.sub(id, 15, 15) == '8' and 'redlock-fifo:' .. string.sub(id, 25, 36)
  end

  -- Tells a waiter of its vote, or with zeros that it should look. Returns how many heard; false if it polls.
  -- PUBLISH counts subscribers to patterns, too, who are nobody's process (F3); where the user may not ask
  -- for the others alone, its word has to do.
  function c.tell(id, ends, number)
    local on = channel(id)
    if not on then return false end
    local heard = redis.pcall('PUBLISH', on, string.format('%.0f %.0f %s', ends, number, id))
    if type(heard) == 'number' and heard > 0 then
      return redis.pcall('PUBSUB', 'NUMSUB', on)[2] or heard
    end
    return heard
  end

  -- Nobody heard of the vote of `head`, so its process is probably gone. The vote is short, and what else this
  -- process has in line ends with it, so that all of it costs no more (F3). Whoever of it is alive asks by then,
  -- and keeps its place. The first of another process that hears is told to look when the vote ends, however many of
  -- one that does not hear are ahead.
  local function cut_short(lock, queue, waiters, head, left)
    local unheard, gone, deaf, looks = tonumber(ARGV[6]), channel(head), {}, 16
    if left > unheard then redis.call('PEXPIRE', lock, unheard) end
    local line = budget > 0 and redis.call('ZRANGE', queue, 0, budget - 1) or {}
    budget = budget - #line
    for _, next in ipairs(line) do
      local on = channel(next)
      if on == gone then
        redis.call('ZADD', waiters, 'XX', 'LT', now + unheard, next)
      elseif looks > 0 and on and not deaf[on] then
        looks = c.tell(next, 0, 0) == 0 and looks - 1 or 0
        deaf[on] = true
      end
    end
  end

  -- A free vote goes to the head of the queue, for what is left of its waiter ttl, and it is told. To
  -- the caller it goes for `own` ms, and the answer tells it. Returns who has the vote; false if the line is empty,
  -- or if this call may look no further into it.
  -- No waiter ttl of ours is longer than an hour; whatever else stands in the queue gets no more either.
  function c.settle(lock, queue, waiters, seq, caller, own)
    local holder = redis.call('GET', lock)
    if holder then return holder end
    while budget > 0 do
      budget = budget - 1
      local head = redis.call('ZRANGE', queue, 0, 0)[1]
      if not head then return false end
      local ends = tonumber(redis.call('ZSCORE', waiters, head))
      redis.call('ZREM', queue, head)
      redis.call('ZREM', waiters, head)
      if ends and ends > now then
        local left = math.min(ends - now, 3600000)
        local number = count(seq)
        redis.call('SET', lock, head, 'PX', head == caller and own or left)
        if head ~= caller and c.tell(head, ends, number) == 0 then
          cut_short(lock, queue, waiters, head, left)
        end
        return head
      end
    end
    return false
  end

  return c
end

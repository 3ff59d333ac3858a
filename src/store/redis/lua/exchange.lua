-- The worker's call: ends attempts, then claims. ARGV from 4: wid, ordinal, call, want, has_yielded, n, then
-- n times id, fence, verb (end, again, wait), state, fault, counter, delay_ms, head, result, message.
local wid, ordinal, number_of_call, want = ARGV[4], ARGV[5], tonumber(ARGV[6]), tonumber(ARGV[7])
local meta = call('HMGET', META, 'tick', 'grace', 'paused', 'limit', 'fence', 'capped', 'n:claimed')
local before = ordinal ~= '' and call('SCARD', HELD(wid))

local function finish(id, fence, verb, state, fault, counter, delay, head, result, message)
  local h = call('HMGET', JOB(id), 'state', 'fence', 'ended', 'worker', 'key', 'profile', 'cancel', 'attempt', 'idem', 'priority', 'seq')
  if not h[1] then return 'unknown' end
  if h[3] == fence then return 'accepted' end
  if h[1] ~= 'running' or h[2] ~= fence then total('stale'); return 'stale' end
  if result ~= '' then call('SET', T .. 'result:' .. id, result) end
  if counter ~= '' then call('HINCRBY', JOB(id), counter, 1) end
  if h[7] and verb ~= 'end' then verb, state, fault = 'end', 'canceled', 'canceled' end
  if verb == 'end' then retire(id, state, fault, h[4], h[8], message, h[9], fence)
  else
    if verb == 'wait' then call('ZADD', WAITING, now, id)
    elseif tonumber(delay) > 0 then
      call('ZADD', LATER, now + tonumber(delay), id)
      call('HSET', JOB(id), 'due', now + tonumber(delay))
      if head == '1' then call('HSET', JOB(id), 'head', 1) end
    else
      enqueue(id, h[10], h[11], head == '1' and HEAD or NORMAL)
      state = 'queued'                                          -- a limit that has reset already
    end
    call('HSET', JOB(id), 'state', state, 'fault', fault, 'ended', fence)
    call('HDEL', JOB(id), 'fresh')
    tell(id, state, fault, h[4], h[8], message, true)
  end
  call('ZREM', RUN, id)
  leave_caps(id, h[5], meta[6] and h[6])
  call('SREM', HELD(h[4]), id)
  return 'accepted'
end

local finished = {}
for i = 0, tonumber(ARGV[9]) - 1 do finished[i + 1] = finish(unpack(ARGV, 10 + 10 * i, 19 + 10 * i)) end
-- After the ends, so that one that nobody missed yet counts; before the look at this worker, which it may forget.
if now - number(meta[1]) >= 500 then upkeep(meta[1], meta[2]) else promote() end
local w = call('HMGET', WORKER(wid), 'draining', 'call', 'jobs', 'slots')

-- The claim of one job: the lease first, then out of the queue.
local fence = number(meta[5])
local function take(id, h)
  fence = math.max(fence + 1, us)
  local text = string.format('%.0f', fence)
  call('ZADD', RUN, now + LEASE, id)
  call('SADD', HELD(wid), id)
  call('HSET', JOB(id), 'state', 'running', 'fence', text, 'worker', wid, 'started', now, 'attempt', number(h[5]) + 1)
  if h[2] then call('SADD', T .. 'ckey:k:' .. h[2], id) end
  if meta[6] and h[4] and call('HEXISTS', T .. 'limits', 'profile:' .. h[4]) == 1 then
    call('SADD', T .. 'ckey:p:' .. h[4], id)
  end
  call('ZREM', PENDING, id)
  call('LPOP', Q)
  tell(id, 'running', '', wid, number(h[5]) + 1, '', true)
  h.fence = text
end

-- The cap that keeps a job from running, if one does.
local function full(h)
  if h[2] and call('SCARD', T .. 'ckey:k:' .. h[2]) >= number(h[3]) then return 'k:' .. h[2] end
  local limit = meta[6] and h[4] and call('HGET', T .. 'limits', 'profile:' .. h[4])
  if limit and call('SCARD', T .. 'ckey:p:' .. h[4]) >= tonumber(limit) then return 'p:' .. h[4] end
end

-- Whether peers with lower ordinals have room for all that waits.
local function peers_suffice()
  local waiting, room = call('LLEN', Q), 0
  for _, peer in ipairs(call('ZRANGEBYSCORE', T .. 'free', '-inf', '(' .. ordinal, 'LIMIT', 0, 8)) do
    if now - number(call('ZSCORE', T .. 'workers', peer)) <= LEASE / 2 then
      room = room + number(call('HGET', WORKER(peer), 'slots')) - call('SCARD', HELD(peer))
    end
    if room >= waiting then return waiting > 0 end
  end
  return false
end

local FIELDS_OF_CLAIM = { 'state', 'key', 'limit', 'profile', 'attempt', 'charged', 'lost', 'overloaded', 'infrastructure', 'fresh', 'fence', 'worker' }
local function answer(id, h, attempt, fence)
  local previous = attempt > 1 and not h[10] and call('GET', T .. 'result:' .. id)
  return { id, fence, attempt, number(h[6]), number(h[7]), number(h[8]), number(h[9]),
    call('GET', T .. 'spec:' .. id) or '', previous or '' }
end

local supply, detail, jobs = 'enough', '', {}
if not w[4] then supply = 'unregistered'
elseif want == 0 then supply = 'enough'
elseif number_of_call < number(w[2]) then supply = 'enough'      -- a late copy of an answered call: takes nothing
elseif number_of_call == number(w[2]) then                       -- repeated: the same jobs, with a new lease
  for id in (w[3] or ''):gmatch('%S+') do
    local h = call('HMGET', JOB(id), unpack(FIELDS_OF_CLAIM))
    if h[1] == 'running' and h[12] == wid then
      call('ZADD', RUN, 'XX', 'GT', now + LEASE, id)
      jobs[#jobs + 1] = answer(id, h, number(h[5]), h[11])
    end
  end
else
  local taken = {}
  if w[1] then supply = 'draining'
  elseif meta[3] then supply, detail = 'closed', 'paused by ' .. meta[3]
  elseif ordinal ~= '' and ordinal ~= '0' and ARGV[8] == '0' and peers_suffice() then supply = 'yield'
  else
    local room = meta[4] and math.max(0, tonumber(meta[4]) - call('ZCARD', RUN))
    local most = room and math.min(want, room) or want
    for _ = 1, most + 32 do
      if #taken >= most then break end
      local ticket = call('LINDEX', Q, 0)
      if not ticket then break end
      if ticket == '.' then
        local id = call('ZRANGE', PENDING, 0, 0)[1]
        local h = id and call('HMGET', JOB(id), unpack(FIELDS_OF_CLAIM))
        if not id then call('LPOP', Q); total('drift')
        elseif h[1] ~= 'queued' then call('ZREM', PENDING, id); call('LPOP', Q); total('drift')
        else
          local cap = full(h)
          if cap then
            call('ZADD', T .. 'park:' .. cap, call('ZSCORE', PENDING, id), id)
            call('HSETNX', PARKS, cap, '')
            call('HSET', JOB(id), 'park', cap)
            call('ZREM', PENDING, id)
            call('LPOP', Q)
            if cap:sub(1, 2) == 'p:' and h[2] then unpark('k:' .. h[2], 0) end
          else
            take(id, h)
            taken[#taken + 1] = id
            jobs[#taken] = answer(id, h, number(h[5]) + 1, h.fence)
          end
        end
      else adopt(ticket) end
    end
    if room and most < want and #taken == most then
      supply, detail = 'closed', 'the fleet runs as many jobs as it may (' .. meta[4] .. ')'
    elseif #taken < want then                                    -- or too many bad tickets for one call: due now
      supply = 'empty'
      local due = call('ZRANGE', LATER, 0, 0, 'WITHSCORES')
      if call('LLEN', Q) > 0 then detail = 0
      elseif due[2] then detail = math.max(0, tonumber(due[2]) - now) end
    end
  end
  call('HSET', WORKER(wid), 'call', number_of_call, 'jobs', table.concat(taken, ' '))
  if #taken > 0 then
    call('HSET', META, 'fence', string.format('%.0f', fence), 'n:claimed', number(meta[7]) + #taken)
  end
end
if before and w[4] then
  local after, slots = call('SCARD', HELD(wid)), tonumber(w[4])
  if (before == 0) ~= (after == 0) or (before >= slots) ~= (after >= slots) then occupy(wid) end
end
-- Whoever finds the fleet closed waits for the event after this one.
local seen = supply == 'closed' and call('XREVRANGE', T .. 'events', '+', '-', 'COUNT', 1)[1]
return { supply, tostring(detail), finished, jobs, seen and seen[1] or false }

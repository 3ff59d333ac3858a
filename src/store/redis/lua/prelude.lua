-- Prepended to every script. KEYS[1] = the queue, KEYS[2] = its meta hash; all other keys share their hash
-- slot because their tag is the queue's whole name (ARCHITECTURE.md P12). Key names: ../keys.rs.
-- ARGV[1..3] = lease, life of an ended job, and `<life of a dead job> <most ended jobs>`; times in ms.
-- A script that fails half-way is not rolled back, so: write the new place before leaving the old one.
local unpack = unpack or table.unpack
local call = redis.call
local Q, META = KEYS[1], KEYS[2]
local T = '{' .. Q .. '}:'
local LEASE, JOB_TTL = tonumber(ARGV[1]), ARGV[2]
local PENDING, RUN, LATER, WAITING = T .. 'pending', T .. 'run', T .. 'later', T .. 'waiting'
local PARKS = T .. 'parks'
local clock = call('TIME')
local us = clock[1] * 1000000 + clock[2]
local now = math.floor(us / 1000)

local function JOB(id) return T .. 'job:' .. id end
local function WORKER(wid) return T .. 'worker:' .. wid end
local function HELD(wid) return T .. 'held:' .. wid end
local function number(text) return tonumber(text or '') or 0 end
local function total(name, by) call('HINCRBY', META, 'n:' .. name, by or 1) end

-- Every transition is an event of the fleet, and from the first attempt on an entry of the job's log.
local function tell(id, state, fault, worker, attempt, message, in_log)
  fault, worker, attempt, message = fault or '', worker or '', attempt or '', message or ''
  if fault == '' and message == '' then        -- most of them
    call('XADD', T .. 'events', 'MAXLEN', '~', '10000', '*', 'id', id, 's', state, 'w', worker, 'a', attempt)
    if in_log then call('XADD', T .. 'log:' .. id, '*', 's', state, 'w', worker, 'a', attempt) end
    return
  end
  call('XADD', T .. 'events', 'MAXLEN', '~', '10000', '*',
    'id', id, 's', state, 'f', fault, 'w', worker, 'a', attempt, 'm', message)
  if in_log then
    call('XADD', T .. 'log:' .. id, '*', 's', state, 'f', fault, 'w', worker, 'a', attempt, 'm', message)
  end
end

-- Scores of `pending`: 2^48 apart per priority, inside it by sequence; raw pushes taken from the head go
-- before (2^46), jobs that were handed back before those (2^47). All below 2^53: exact in a double.
local NORMAL, RAW, HEAD = 0, -70368744177664, -140737488355328
local function score(priority, seq, region)
  return -number(priority) * 281474976710656 + region + number(seq)
end

-- One runnable job more: its entry in `pending` and one ticket in the queue, always together (P1).
local function enqueue(id, priority, seq, region)
  call('ZADD', PENDING, score(priority, seq, region), id)
  call(region == HEAD and 'LPUSH' or 'RPUSH', Q, '.')
end

-- Caps: `k:<concurrency key>` with the job's own limit, `p:<profile>` with the fleet's. The set of running
-- ids is the count, so a crashed holder cannot leave it wrong for longer than its lease.
-- Lets the best parked job go if the cap has a place beside those that run and `promised` others.
local function unpark(cap, promised)
  local park = T .. 'park:' .. cap
  local best = call('ZRANGE', park, 0, 0, 'WITHSCORES')
  if not best[1] then
    call('HDEL', PARKS, cap)
    return false
  end
  local limit = cap:sub(1, 2) == 'k:' and call('HGET', JOB(best[1]), 'limit')
    or call('HGET', T .. 'limits', 'profile:' .. cap:sub(3))
  if limit and call('SCARD', T .. 'ckey:' .. cap) + promised >= tonumber(limit) then return false end
  call('ZADD', PENDING, best[2], best[1])
  call('LPUSH', Q, '.')
  call('ZREM', park, best[1])
  call('HDEL', JOB(best[1]), 'park')
  if call('EXISTS', park) == 1 then call('HSET', PARKS, cap, best[1]) else call('HDEL', PARKS, cap) end
  return true
end
-- Mends a lost hand-over of places. Nothing is lost while the job that was let go last still waits for a
-- worker; without that look a fleet whose slots are all busy would call every parked job runnable.
local function offer(cap)
  local last = call('HGET', PARKS, cap)
  if not last or last ~= '' and call('ZSCORE', PENDING, last) then return end
  for promised = 0, 63 do
    if not unpark(cap, promised) then return end
  end
end
local function leave_cap(cap, id)
  if call('SREM', T .. 'ckey:' .. cap, id) == 1 then unpark(cap, 0) end
end
local function leave_caps(id, key, profile)
  if key then leave_cap('k:' .. key, id) end
  if profile and call('EXISTS', T .. 'ckey:p:' .. profile) == 1 then leave_cap('p:' .. profile, id) end
end

-- What KEDA and packing read of a worker with an ordinal: `busy` and the unary `floor` (highest busy, not
-- draining ordinal + 1), and `free` (workers that have room).
local function occupy(wid)
  local w = call('HMGET', WORKER(wid), 'ordinal', 'slots', 'draining', 'quarantine')
  local ordinal, held = tonumber(w[1] or ''), call('SCARD', HELD(wid))
  if ordinal and held > 0 and not w[3] then call('ZADD', T .. 'busy', ordinal, wid)
  else call('ZREM', T .. 'busy', wid) end
  if ordinal and held < number(w[2]) and not w[3] and not w[4] then call('ZADD', T .. 'free', ordinal, wid)
  else call('ZREM', T .. 'free', wid) end
  local top = call('ZREVRANGE', T .. 'busy', 0, 0, 'WITHSCORES')
  local want, have = top[2] and tonumber(top[2]) + 1 or 0, call('LLEN', T .. 'floor')
  for _ = have + 1, want do call('RPUSH', T .. 'floor', 'x') end
  if want == 0 then call('DEL', T .. 'floor')
  elseif have > want then call('LTRIM', T .. 'floor', 0, want - 1) end
end

-- The job has ended. Only now may its keys expire (P11). `ended` = the fence of the attempt that ended it.
local function retire(id, state, fault, worker, attempt, message, idem, ended)
  local dead = state == 'dead'
  local ttl = dead and ARGV[3]:match('%d+') or JOB_TTL
  call('ZADD', T .. (dead and 'dead' or 'done'), now, id)
  if ended then call('HSET', JOB(id), 'state', state, 'finished', now, 'fault', fault or '', 'ended', ended)
  else call('HSET', JOB(id), 'state', state, 'finished', now, 'fault', fault or '') end
  total(state)
  tell(id, state, fault, worker, attempt, message, true)
  call('PEXPIRE', JOB(id), ttl)
  call('PEXPIRE', T .. 'spec:' .. id, ttl)
  call('PEXPIRE', T .. 'log:' .. id, ttl)
  call('PEXPIRE', T .. 'result:' .. id, ttl)
  if idem then call('PEXPIRE', T .. 'idem:' .. idem, ttl) end
end

-- Every trace of an ended job.
local function forget_job(id)
  local idem = call('HGET', JOB(id), 'idem')
  call('ZREM', T .. 'done', id)
  call('ZREM', T .. 'dead', id)
  call('DEL', JOB(id), T .. 'spec:' .. id, T .. 'log:' .. id, T .. 'result:' .. id)
  if idem and call('GET', T .. 'idem:' .. idem) == id then call('DEL', T .. 'idem:' .. idem) end
end

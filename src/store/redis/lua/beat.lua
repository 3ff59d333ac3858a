-- A heartbeat. ARGV from 4: wid, is_whole, quarantine, life of the leases, n, then n times id, fence.
local wid, whole, quarantine, life = ARGV[4], ARGV[5] == '1', ARGV[6], tonumber(ARGV[7])
local w = call('HMGET', WORKER(wid), 'slots', 'drain_by', 'quarantine')
local verdicts, known, others = {}, {}, {}
for i = 0, tonumber(ARGV[8]) - 1 do
  local id, fence = ARGV[9 + 2 * i], ARGV[10 + 2 * i]
  local h = call('HMGET', JOB(id), 'state', 'fence', 'cancel')
  if h[1] == 'running' and h[2] == fence then
    call('ZADD', RUN, 'XX', 'GT', now + life, id)
    verdicts[i + 1] = h[3] and 'c' .. h[3] or 'k'
    known[id] = true
  else verdicts[i + 1] = 'l' end
end
if w[1] then call('ZADD', T .. 'workers', now, wid) end
if whole then
  for _, id in ipairs(call('SMEMBERS', HELD(wid))) do
    if not known[id] then others[#others + 1] = { id, call('HGET', JOB(id), 'fence') or '0' } end
  end
  if w[1] and quarantine ~= (w[3] or '') then
    if quarantine == '' then call('HDEL', WORKER(wid), 'quarantine')
    else call('HSET', WORKER(wid), 'quarantine', quarantine) end
    occupy(wid)
  end
end
local meta = call('HMGET', META, 'tick', 'grace')
upkeep(meta[1], meta[2])
local drain = w[2] and string.format('%.0f', math.max(0, tonumber(w[2]) - now)) or ''
return { w[1] and 1 or 0, drain, verdicts, others }

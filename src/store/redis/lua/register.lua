-- Makes a worker known. ARGV from 4: wid, pod, is_exclusive, is_first, ordinal, slots, host, pid, pid_started,
-- version, n, then n worker ids known to be dead. Answers the jobs taken back, or -1: the pod's newest
-- incarnation is another process (only a first registration may displace one).
local wid, pod, exclusive = ARGV[4], ARGV[5], ARGV[6] == '1'
local newest = exclusive and call('HGET', T .. 'pods', pod)
-- A late copy of a displaced incarnation's first registration is no first registration.
local displaced = call('EXISTS', T .. 'gone:' .. wid) == 1
if newest and newest ~= wid and (ARGV[7] == '0' or displaced) then return -1 end
local taken = 0
local function gone(other)
  taken = taken + call('SCARD', HELD(other))
  forget_worker(other)
end
for i = 1, tonumber(ARGV[14]) do gone(ARGV[14 + i]) end
if exclusive then
  for _, other in ipairs(call('ZRANGE', T .. 'workers', 0, -1)) do
    if other ~= wid and other:sub(1, #pod + 1) == pod .. '/' and call('HGET', WORKER(other), 'exclusive') then
      call('SET', T .. 'gone:' .. other, 1, 'PX', 3600000)
      gone(other)
    end
  end
  call('HSET', T .. 'pods', pod, wid)
end
local fields = { 'pod', pod, 'slots', ARGV[9], 'host', ARGV[10], 'pid', ARGV[11], 'pid_started', ARGV[12], 'version', ARGV[13] }
if exclusive then fields[#fields + 1] = 'exclusive'; fields[#fields + 1] = 1 end
-- A number that no StatefulSet reaches is part of a name. The floor is as long as the highest ordinal.
if (tonumber(ARGV[8]) or 10000) < 10000 then fields[#fields + 1] = 'ordinal'; fields[#fields + 1] = ARGV[8] end
call('HSET', WORKER(wid), unpack(fields))
call('HSETNX', WORKER(wid), 'started', now)
call('ZADD', T .. 'workers', now, wid)
occupy(wid)
return taken

-- Appends to a job's log. ARGV from 4: id, fence, number of entries, entries…, ids to drop…
local id, log = ARGV[4], T .. 'log:' .. ARGV[4]
local h = call('HMGET', JOB(id), 'state', 'fence')
if h[1] ~= 'running' or h[2] ~= ARGV[5] then return { 'fenced' } end
local ids, n = {}, tonumber(ARGV[6])
for i = 1, n do ids[i] = call('XADD', log, 'MAXLEN', '~', '20000', '*', 'e', ARGV[6 + i]) end
for i = 7 + n, #ARGV, 1000 do call('XDEL', log, unpack(ARGV, i, math.min(i + 999, #ARGV))) end
return { 'ok', ids }

-- Appends to a job's log. ARGV from 4: id, fence, number of entries, entries…, ids to drop…
local id, log = ARGV[4], T .. 'log:' .. ARGV[4]
local h = call('HMGET', JOB(id), 'state', 'fence')
if h[1] ~= 'running' or h[2] ~= ARGV[5] then return { 'fenced' } end
local ids, n = {}, tonumber(ARGV[6])
for i = 1, n do ids[i] = call('XADD', log, 'MAXLEN', '~', '20000', '*', 'e', ARGV[6 + i]) end
if #ARGV > 6 + n then call('XDEL', log, unpack(ARGV, 7 + n)) end
return { 'ok', ids }

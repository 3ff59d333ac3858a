-- Appends to a job's log. ARGV from 4: id, fence, number of the call, number of entries, entries…, ids to
-- drop…. A repeated call, or a late copy of one, appends nothing: only the newest answer is asked for again.
local id, log, number_of_call, n = ARGV[4], T .. 'log:' .. ARGV[4], tonumber(ARGV[6]), tonumber(ARGV[7])
local h = call('HMGET', JOB(id), 'state', 'fence', 'append', 'appended')
if h[1] ~= 'running' or h[2] ~= ARGV[5] then return { 'fenced' } end
local ids = {}
local fence, newest = (h[3] or ''):match('^(%d+) (%d+)$')
if fence == ARGV[5] and number_of_call <= tonumber(newest) then
  for known in (h[4] or ''):gmatch('%S+') do ids[#ids + 1] = known end
  return { 'ok', ids }
end
for i = 1, n do ids[i] = call('XADD', log, 'MAXLEN', '~', '20000', '*', 'e', ARGV[7 + i]) end
for i = 8 + n, #ARGV, 1000 do call('XDEL', log, unpack(ARGV, i, math.min(i + 999, #ARGV))) end
call('HSET', JOB(id), 'append', ARGV[5] .. ' ' .. ARGV[6], 'appended', table.concat(ids, ' '))
return { 'ok', ids }

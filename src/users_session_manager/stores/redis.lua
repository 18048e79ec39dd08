-- All that RedisStore does in Redis or Valkey: a call of this script is one operation, and nothing comes in between.
--
-- KEYS are the `due` sets of the groups it is about, by which a cluster finds the node. All else of a group has a name
-- that differs in its end alone, and so the same hash slot:
--
--   due            sorted set: id of a session -> the time at which it runs out
--   warn           sorted set: id -> the time at which it is to be announced that it is about to
--   ended          sorted set: id -> until when whoever took it out has the lease to announce its end
--   s:<id>         hash: the session; its id is the first key it had, and outlives renewals
--   k:<key>        string: the id of the session that a renewal has given this key
--   u:<username>   sorted set: id -> when it began; the sessions of a user
--
-- ARGV: the operation, the time or nothing for that of the server, and what the operation takes. What is absent is an
-- empty text. Numbers are handed back as texts, since Redis would cut their fractions off.

-- Seconds that a key outlives its purpose, half of that at least: an application that is away for a day loses nothing.
local GRACE = 2 * 86400

local KEY, NUMBER = '^[%w_-]+$', '^%d+%.?%d*$'

local clock = redis.call('TIME')
local began = clock[1] * 1000000 + clock[2] -- tells the order of creation
local unix = began / 1000000
local now = ARGV[2] == '' and unix or tonumber(ARGV[2])

local function text(number) return string.format('%.17g', number) end
local function whole(number) return string.format('%.0f', number) end
local function group_of(due) return string.sub(due, 1, -4) end

local function keep(key, seconds)
  if redis.call('PTTL', key) < (seconds + GRACE / 2) * 1000 then
    redis.call('PEXPIRE', key, whole((seconds + GRACE) * 1000))
  end
end

-- What Redis answers, nil if somebody else has written something of another type there.
local function ask(...)
  local answer = redis.pcall(...)
  if type(answer) ~= 'table' or not answer.err then return answer end
  if not string.find(answer.err, 'WRONGTYPE', 1, true) then error(answer.err) end
end

-- Asks a sorted set of ours; what somebody else has put in its place is dropped.
local function in_set(command, key, ...)
  local answer = ask(command, key, ...)
  if answer == nil then
    redis.call('DEL', key)
    answer = redis.call(command, key, ...)
  end
  return answer
end

-- A number that a time can be: nil for anything else, and for what has no end.
local function finite(written)
  local number = tonumber(written or '')
  return number and number > -math.huge and number < math.huge and number or nil
end

-- What somebody else may have written there is no session: of another type, or without what makes one.
local function read(at, id)
  local found = ask('HMGET', at .. 's:' .. id, 'key', 'user', 'created', 'authenticated', 'deadline', 'limit',
    'born', 'began', 'own', 'data', 'former', 'reason', 'warned')
  if not (found and found[1] and found[2] and found[3] and found[4]) then return nil end
  for text, form in pairs({[id] = KEY, [found[1]] = KEY, [found[3]] = NUMBER, [found[4]] = NUMBER}) do
    if not string.find(text, form) then return nil end
  end
  local s = {id = id, key = found[1], user = found[2], created = found[3], authenticated = found[4],
    deadline = finite(found[5]), limit = finite(found[6]) or math.huge, born = finite(found[7]),
    began = finite(found[8]), own = finite(found[9]), data = found[10], former = {},
    reason = found[12] and (string.match(found[12], '^%l+$') or 'expired'),
    warned = finite(found[13])}
  if found[11] then
    local is_json, former = pcall(cjson.decode, found[11])
    if not is_json or type(former) ~= 'table' then return nil end
    for index, one in ipairs(former) do
      if type(one) ~= 'table' or type(one[1]) ~= 'string' or not string.find(one[1], KEY)
        or not tonumber(one[2] or '') then return nil end
      s.former[index] = one
    end
  end
  return finite(s.created) and finite(s.authenticated) and s.deadline and s.born and s.began and s or nil
end

local function live(at, id)
  local s = read(at, id)
  return s and not s.reason and s.deadline > now and s or nil
end

local function find(at, key)
  local s = live(at, key)
  if not s then
    local id = ask('GET', at .. 'k:' .. key)
    s = id and live(at, id)
  end
  if not s or s.key == key then return s or nil end
  for _, former in ipairs(s.former) do
    if former[1] == key then return tonumber(former[2]) > now and s or nil end
  end
end

-- One text and not a list, which costs the client several times as much to read. What may hold anything comes last.
local function record(s)
  local former = {}
  for index, one in ipairs(s.former) do former[index] = one[1] end
  local head = table.concat({s.id, s.key, table.concat(former, ','), s.created, s.authenticated, text(unix),
    s.own and text(s.own) or '', text(s.deadline - now), s.reason or '', whole(s.began), #s.user}, ' ')
  return head .. '\n' .. s.user .. (s.data or '')
end

local function count_down(at, s, timeout, lifetime, warning)
  if lifetime then s.limit = math.min(s.limit, s.born + lifetime) end
  s.deadline = math.min(now + (s.own or timeout), s.limit)
  local left, hash = s.deadline - now, at .. 's:' .. s.id
  redis.call('HSET', hash, 'deadline', text(s.deadline))
  if lifetime then redis.call('HSET', hash, 'limit', text(s.limit)) end
  in_set('ZADD', at .. 'due', text(s.deadline), s.id)
  if warning and s.warned ~= s.deadline then
    redis.call('HSET', hash, 'warned', text(s.deadline))
    in_set('ZADD', at .. 'warn', text(s.deadline - warning), s.id)
    keep(at .. 'warn', left)
  elseif s.warned and not warning then
    redis.call('HDEL', hash, 'warned')
    in_set('ZREM', at .. 'warn', s.id)
  end
  keep(hash, left)
  keep(at .. 'due', left)
  keep(at .. 'u:' .. s.user, left)
  if s.key ~= s.id then keep(at .. 'k:' .. s.key, left) end
end

local function finish(at, s, reason, lease)
  s.reason = reason
  in_set('ZREM', at .. 'due', s.id)
  in_set('ZREM', at .. 'warn', s.id)
  in_set('ZREM', at .. 'u:' .. s.user, s.id)
  if s.former[1] then
    redis.call('DEL', at .. 'k:' .. s.key)
    for _, former in ipairs(s.former) do redis.call('DEL', at .. 'k:' .. former[1]) end
  end
  redis.call('HSET', at .. 's:' .. s.id, 'reason', reason)
  in_set('ZADD', at .. 'ended', text(now + lease), s.id)
  keep(at .. 's:' .. s.id, lease)
  keep(at .. 'ended', lease)
  return record(s)
end

local function live_of(at, user)
  local sessions = {}
  for _, id in ipairs(in_set('ZRANGE', at .. 'u:' .. user, 0, -1)) do
    local s = read(at, id)
    if not s or s.user ~= user then in_set('ZREM', at .. 'u:' .. user, id)
    elseif not s.reason and s.deadline > now then sessions[#sessions + 1] = s end
  end
  return sessions
end

-- Hands each session of these groups to `visit`, `some` of them a call; returns for each where to go on, '' at its end.
-- A scan misses none that is there all the while, and may show one twice.
local function scan(some, cursors, visit)
  local next_cursors, seen = {}, 0
  for index, due in ipairs(KEYS) do
    local cursor, at = cursors[index], group_of(due)
    while cursor ~= '' and seen < some do
      local found = in_set('ZSCAN', due, cursor, 'COUNT', some)
      cursor = found[1] == '0' and '' or found[1]
      for entry = 1, #found[2], 2 do
        seen = seen + 1
        local s = live(at, found[2][entry])
        if s then visit(at, s) end
      end
    end
    next_cursors[index] = cursor
  end
  return next_cursors
end

local operations = {}

function operations.add(at, key, user, timeout, own, lifetime, most, overflow, warning, data, lease)
  -- Asked again, since the answer was lost, there is nothing to do.
  if live(at, key) then return {'added', {}} end
  local evicted = {}
  if most ~= '' then
    local there = live_of(at, user)
    local too_many = #there + 1 - tonumber(most)
    if too_many > 0 and overflow == 'reject' then return {'full', #there} end
    for index = 1, too_many do evicted[index] = finish(at, there[index], 'evicted', tonumber(lease)) end
  end
  local hash = at .. 's:' .. key
  -- What is not there is not deleted: after that write Redis would let the others pass, however full its memory is.
  if redis.call('EXISTS', hash) == 1 then redis.call('DEL', hash) end
  redis.call('HSET', hash, 'key', key, 'user', user, 'created', text(unix), 'authenticated', text(unix),
    'born', text(now), 'began', whole(began))
  if own ~= '' then redis.call('HSET', hash, 'own', own) end
  if data ~= '' then redis.call('HSET', hash, 'data', data) end
  in_set('ZADD', at .. 'u:' .. user, whole(began), key)
  count_down(at, {id = key, key = key, user = user, limit = math.huge, born = now, own = tonumber(own)},
    tonumber(timeout), tonumber(lifetime), tonumber(warning))
  return {'added', evicted}
end

function operations.get(at, key)
  local s = find(at, key)
  return s and record(s) or false
end

function operations.restart(at, key, timeout, lifetime, warning)
  local s = find(at, key)
  if not s then return false end
  count_down(at, s, tonumber(timeout), tonumber(lifetime), tonumber(warning))
  return s.deadline > now and record(s) or false
end

function operations.renew_key(at, key, new, overlap)
  local s = find(at, key)
  if not s or s.key == new then
    s = find(at, new) -- asked again, since the answer was lost
    return s and s.key == new and s.former[#s.former][1] or false
  end
  local old, good_until = s.key, now + tonumber(overlap)
  for _, former in ipairs(s.former) do former[2] = text(math.min(tonumber(former[2]), good_until)) end
  s.former[#s.former + 1] = {old, text(good_until)}
  redis.call('HSET', at .. 's:' .. s.id, 'key', new, 'former', cjson.encode(s.former), 'authenticated', text(unix))
  redis.call('SET', at .. 'k:' .. new, s.id)
  keep(at .. 'k:' .. new, s.deadline - now)
  if old ~= s.id then keep(at .. 'k:' .. old, tonumber(overlap)) end
  if tonumber(overlap) == 0 then
    for _, former in ipairs(s.former) do redis.call('DEL', at .. 'k:' .. former[1]) end
  end
  return old
end

function operations.set_data(at, key, data)
  local s = find(at, key)
  if not s then return 0 end
  if data == '' then redis.call('HDEL', at .. 's:' .. s.id, 'data')
  else redis.call('HSET', at .. 's:' .. s.id, 'data', data) end
  return 1
end

function operations.remove(at, key, lease)
  local s = find(at, key)
  return s and finish(at, s, 'deleted', tonumber(lease)) or false
end

function operations.of_user(at, user)
  local records = {}
  for index, s in ipairs(live_of(at, user)) do records[index] = record(s) end
  return records
end

function operations.remove_user(at, user, except, lease)
  local kept, ended = except ~= '' and find(at, except), {}
  for _, s in ipairs(live_of(at, user)) do
    if not (kept and kept.id == s.id) then ended[#ended + 1] = finish(at, s, 'deleted', tonumber(lease)) end
  end
  return ended
end

-- What has been announced is done with.
function operations.acknowledge(at, ...)
  for _, id in ipairs({...}) do
    in_set('ZREM', at .. 'ended', id)
    redis.call('DEL', at .. 's:' .. id)
  end
  return 1
end

-- Whoever is still announcing keeps the lease; with one of no seconds they hand it back.
function operations.extend(at, lease, ...)
  for _, id in ipairs({...}) do
    in_set('ZADD', at .. 'ended', 'XX', text(now + lease), id)
    keep(at .. 's:' .. id, lease)
  end
  return 1
end

local of_several = {}

function of_several.list(some, ...)
  local found = {}
  local cursors = scan(tonumber(some), {...}, function(_, s)
    found[#found + 1] = {s.id, whole(s.began), s.user, s.key}
  end)
  return {cursors, found}
end

function of_several.count()
  local count = 0
  for _, due in ipairs(KEYS) do count = count + in_set('ZCOUNT', due, '(' .. text(now), '+inf') end
  return count
end

function of_several.clear(lease, some, ...)
  local ended = {}
  local cursors = scan(tonumber(some), {...}, function(at, s)
    ended[#ended + 1] = finish(at, s, 'deleted', tonumber(lease))
  end)
  return {cursors, ended}
end

-- Claims what has run out, and what others have taken out and not announced in time: `some` of all that a call.
function of_several.claim(some, lease)
  some = tonumber(some)
  local ended, warned, next_at = {}, {}, math.huge
  for _, due in ipairs(KEYS) do
    local at = group_of(due)
    local function fallen_due(set)
      local ids = some > 0 and in_set('ZRANGEBYSCORE', at .. set, '-inf', text(now), 'LIMIT', 0, some) or {}
      some = some - #ids
      return ids
    end
    for _, id in ipairs(fallen_due('ended')) do
      local s = read(at, id)
      if s and s.reason then
        in_set('ZADD', at .. 'ended', text(now + lease), id)
        ended[#ended + 1] = record(s)
      else in_set('ZREM', at .. 'ended', id) end
    end
    for _, id in ipairs(fallen_due('warn')) do
      in_set('ZREM', at .. 'warn', id)
      local s = live(at, id)
      if s then warned[#warned + 1] = record(s) end
    end
    for _, id in ipairs(fallen_due('due')) do
      local s = read(at, id)
      if not s or s.reason then in_set('ZREM', due, id)
      elseif s.deadline > now then in_set('ZADD', due, text(s.deadline), id)
      else ended[#ended + 1] = finish(at, s, 'expired', tonumber(lease)) end
    end
    for _, set in ipairs({'due', 'warn', 'ended'}) do
      local first = in_set('ZRANGE', at .. set, 0, 0, 'WITHSCORES')
      if first[2] then next_at = math.min(next_at, tonumber(first[2])) end
    end
  end
  return {ended, warned, text(next_at - now)}
end

if of_several[ARGV[1]] then return of_several[ARGV[1]](unpack(ARGV, 3)) end
return operations[ARGV[1]](group_of(KEYS[1]), unpack(ARGV, 3))

-- All that RedisStore does in Redis or Valkey: a call of this script is one operation, and nothing comes in between.
--
-- KEYS are the `due` sets of the groups it is about, by which a cluster finds the node. All else of a group has a name
-- that differs in its end alone, and so the same hash slot:
--
--   due            sorted set: id of a session -> the time at which it expires
--   warn           sorted set: id -> the time at which its warning is due
--   expiring       sorted set: id -> the deadline of which a warning is to be announced
--   ended          sorted set: id -> until when the process that took it out has the lease to announce its end
--   listens        string: there while a process with listeners for ends has served in the last days; without it, ends
--                  are announced to none, and not kept
--   s:<id>         hash: the session; its id is the first key it had, and outlives renewals. Fields: key, user, data;
--                  created and authenticated (Unix time), started_at (in the time of the deadlines) and serial (the
--                  order of creation); deadline, own (a timeout of its own), limit (the end of its lifetime) and fixed
--                  (set if that is its own); former (its former keys, and until when they are good), warned (the
--                  deadline whose warning is set), reason (why it has ended)
--   k:<key>        string: the id of the session that a renewal has given this key
--   u:<username>   sorted set: id -> when it started; the sessions of a user
--
-- Notices of sessions are published on the channel `notices`, which all groups share: a kind, the id, the present key
-- and perhaps the seconds left, as words of a text.
--
-- ARGV: the operation, the time or nothing for that of the server, and what the operation takes. What is absent is an
-- empty text. Numbers are returned as texts, since Redis would cut their fractions off.

-- Seconds that a key outlives its purpose, half of that at least: an application that is down for a day loses nothing.
local GRACE = 2 * 86400

local KEY, NUMBER = '^[%w_-]+$', '^%d+%.?%d*$'

local clock = redis.call('TIME')
local serial = clock[1] * 1000000 + clock[2] -- the order of creation
local unix = serial / 1000000
local now = ARGV[2] == '' and unix or tonumber(ARGV[2])

local function text(number) return string.format('%.17g', number) end
local function whole(number) return string.format('%.0f', number) end
local function prefix_of(due) return string.sub(due, 1, -4) end

-- The user may lack the permission to publish: an end is one all the same.
local channel = string.match(KEYS[1], '^(.*){%d+}:due$') .. 'notices'
local function notify(kind, id, key, left)
  redis.pcall('PUBLISH', channel, kind .. ' ' .. id .. ' ' .. key .. ' ' .. (left and text(left) or ''))
end

local function extend_ttl(key, seconds)
  if redis.call('PTTL', key) < (seconds + GRACE / 2) * 1000 then
    redis.call('PEXPIRE', key, whole((seconds + GRACE) * 1000))
  end
end

-- What Redis answers, nil if another program has written a value of another type there.
local function ask(...)
  local answer = redis.pcall(...)
  if type(answer) ~= 'table' or not answer.err then return answer end
  if not string.find(answer.err, 'WRONGTYPE', 1, true) then error(answer.err) end
end

-- A number that a time can be: nil for anything else, and for what has no end.
local function finite(written)
  local number = tonumber(written or '')
  return number and number > -math.huge and number < math.huge and number or nil
end

-- What another program has written there is no session: a value of another type, or without what makes one.
local function read(prefix, id)
  local found = ask('HMGET', prefix .. 's:' .. id, 'key', 'user', 'created', 'authenticated', 'deadline', 'limit',
    'started_at', 'serial', 'own', 'data', 'former', 'reason', 'warned', 'fixed')
  if not (found and found[1] and found[2] and found[3] and found[4]) then return nil end
  for text, form in pairs({[id] = KEY, [found[1]] = KEY, [found[3]] = NUMBER, [found[4]] = NUMBER}) do
    if not string.find(text, form) then return nil end
  end
  local s = {id = id, key = found[1], user = found[2], created = found[3], authenticated = found[4],
    deadline = finite(found[5]), limit = finite(found[6]) or math.huge, started_at = finite(found[7]),
    serial = finite(found[8]), own = finite(found[9]), data = found[10], former = {},
    reason = found[12] and (string.match(found[12], '^%l+$') or 'expired'),
    warned = finite(found[13]), fixed = found[14]}
  if found[11] then
    local is_json, former = pcall(cjson.decode, found[11])
    if not is_json or type(former) ~= 'table' then return nil end
    for index, one in ipairs(former) do
      if type(one) ~= 'table' or type(one[1]) ~= 'string' or not string.find(one[1], KEY)
        or not tonumber(one[2] or '') then return nil end
      s.former[index] = one
    end
  end
  return finite(s.created) and finite(s.authenticated) and s.deadline and s.started_at and s.serial and s or nil
end

local function live(prefix, id)
  local s = read(prefix, id)
  return s and not s.reason and s.deadline > now and s or nil
end

local function find(prefix, key)
  local s = live(prefix, key)
  if not s then
    local id = ask('GET', prefix .. 'k:' .. key)
    s = id and live(prefix, id)
  end
  if not s or s.key == key then return s or nil end
  for _, former in ipairs(s.former) do
    if former[1] == key then return tonumber(former[2]) > now and s or nil end
  end
end

local function record(s)
  local former = {}
  for index, one in ipairs(s.former) do former[index] = one[1] end
  return {s.id, s.key, s.user, s.data or '', table.concat(former, ','), s.created, s.authenticated, text(unix),
    s.own and text(s.own) or '', text(s.deadline - now), s.reason or '', whole(s.serial)}
end

local function count_down(prefix, s, timeout, lifetime, warning)
  if s.fixed then lifetime = nil end -- it has a lifetime of its own
  if lifetime then s.limit = math.min(s.limit, s.started_at + lifetime) end
  s.deadline = math.min(now + (s.own or timeout), s.limit)
  local left, hash = s.deadline - now, prefix .. 's:' .. s.id
  redis.call('HSET', hash, 'deadline', text(s.deadline), 'limit', text(s.limit))
  redis.call('ZADD', prefix .. 'due', text(s.deadline), s.id)
  if warning and s.warned ~= s.deadline then
    redis.call('HSET', hash, 'warned', text(s.deadline))
    redis.call('ZADD', prefix .. 'warn', text(s.deadline - warning), s.id)
    extend_ttl(prefix .. 'warn', left)
  elseif s.warned and not warning then
    redis.call('HDEL', hash, 'warned')
    redis.call('ZREM', prefix .. 'warn', s.id)
  end
  extend_ttl(hash, left)
  extend_ttl(prefix .. 'due', left)
  extend_ttl(prefix .. 'u:' .. s.user, left)
  if s.key ~= s.id then extend_ttl(prefix .. 'k:' .. s.key, left) end
end

local function forget(prefix, id)
  redis.call('ZREM', prefix .. 'ended', id)
  redis.call('DEL', prefix .. 's:' .. id)
end

-- Takes a session out. Its end is announced by the caller, which has a lease for that; with one of no seconds it is left
-- to another process, if there is one with a listener.
local function end_session(prefix, s, reason, lease, kind)
  s.reason = reason
  redis.call('ZREM', prefix .. 'due', s.id)
  redis.call('ZREM', prefix .. 'warn', s.id)
  redis.call('ZREM', prefix .. 'expiring', s.id)
  redis.call('ZREM', prefix .. 'u:' .. s.user, s.id)
  if s.former[1] then
    redis.call('DEL', prefix .. 'k:' .. s.key)
    for _, former in ipairs(s.former) do redis.call('DEL', prefix .. 'k:' .. former[1]) end
  end
  if lease > 0 or redis.call('EXISTS', prefix .. 'listens') == 1 then
    redis.call('HSET', prefix .. 's:' .. s.id, 'reason', reason)
    redis.call('ZADD', prefix .. 'ended', text(now + lease), s.id)
    extend_ttl(prefix .. 's:' .. s.id, lease)
    extend_ttl(prefix .. 'ended', lease)
  else forget(prefix, s.id) end
  notify(kind, s.id, s.key)
  return record(s)
end

local function live_of(prefix, user)
  local sessions = {}
  for _, id in ipairs(redis.call('ZRANGE', prefix .. 'u:' .. user, 0, -1)) do
    local s = read(prefix, id)
    if not s or s.user ~= user then redis.call('ZREM', prefix .. 'u:' .. user, id)
    elseif not s.reason and s.deadline > now then sessions[#sessions + 1] = s end
  end
  return sessions
end

-- Calls `visit` with the sessions of these groups, about a page of them; returns each group's next cursor, '' at its end.
-- A scan misses none that is there all the while, and may show one twice.
local function scan(page_size, cursors, visit)
  local next_cursors, seen = {}, 0
  for index, due in ipairs(KEYS) do
    local cursor, prefix = cursors[index], prefix_of(due)
    while cursor ~= '' and seen < page_size do
      local found = redis.call('ZSCAN', due, cursor, 'COUNT', page_size)
      cursor = found[1] == '0' and '' or found[1]
      for entry = 1, #found[2], 2 do
        seen = seen + 1
        local s = live(prefix, found[2][entry])
        if s then visit(prefix, s) end
      end
    end
    next_cursors[index] = cursor
  end
  return next_cursors
end

local operations = {}

function operations.add(prefix, key, user, timeout, own, lifetime, fixed, most, overflow, warning, data, lease)
  -- Asked again, since the answer was lost, there is nothing to do.
  if live(prefix, key) then return {'added', {}} end
  local evicted = {}
  if most ~= '' then
    local there = live_of(prefix, user)
    local too_many = #there + 1 - tonumber(most)
    if too_many > 0 and overflow == 'reject' then return {'full', #there} end
    for index = 1, too_many do 
      evicted[index] = end_session(prefix, there[index], 'evicted', tonumber(lease), 'ended')
    end
  end
  local hash = prefix .. 's:' .. key
  -- What is not there is not deleted: after that write Redis would let the others pass, however full its memory is.
  if redis.call('EXISTS', hash) == 1 then redis.call('DEL', hash) end
  redis.call('HSET', hash, 'key', key, 'user', user, 'created', text(unix), 'authenticated', text(unix),
    'started_at', text(now), 'serial', whole(serial))
  if own ~= '' then redis.call('HSET', hash, 'own', own) end
  if fixed ~= '' then redis.call('HSET', hash, 'fixed', fixed) end
  if data ~= '' then redis.call('HSET', hash, 'data', data) end
  redis.call('ZADD', prefix .. 'u:' .. user, whole(serial), key)
  count_down(prefix, {id = key, key = key, user = user, limit = math.huge, started_at = now, own = tonumber(own)},
    tonumber(timeout), tonumber(lifetime), tonumber(warning))
  return {'added', evicted}
end

function operations.get(prefix, key)
  local s = find(prefix, key)
  return s and record(s) or false
end

function operations.restart(prefix, key, timeout, lifetime, warning)
  local s = find(prefix, key)
  if not s then return false end
  count_down(prefix, s, tonumber(timeout), tonumber(lifetime), tonumber(warning))
  return s.deadline > now and record(s) or false
end

function operations.renew_key(prefix, key, new, overlap)
  local s = find(prefix, key)
  if not s or s.key == new then
    s = find(prefix, new) -- asked again, since the answer was lost
    return s and s.key == new and {s.id, s.former[#s.former][1]} or false
  end
  local old, good_until = s.key, now + tonumber(overlap)
  for _, former in ipairs(s.former) do former[2] = text(math.min(tonumber(former[2]), good_until)) end
  s.former[#s.former + 1] = {old, text(good_until)}
  redis.call('HSET', prefix .. 's:' .. s.id, 'key', new, 'former', cjson.encode(s.former), 'authenticated', text(unix))
  redis.call('SET', prefix .. 'k:' .. new, s.id)
  extend_ttl(prefix .. 'k:' .. new, s.deadline - now)
  if old ~= s.id then extend_ttl(prefix .. 'k:' .. old, tonumber(overlap)) end
  if tonumber(overlap) == 0 then
    for _, former in ipairs(s.former) do redis.call('DEL', prefix .. 'k:' .. former[1]) end
  end
  notify('renewed', s.id, new)
  return {s.id, old}
end

function operations.send_logout(prefix, key)
  local s = find(prefix, key)
  if s then notify('logout', s.id, s.key) end
  return s and 1 or 0
end

function operations.present_keys(prefix, ...)
  local keys = {}
  for index, id in ipairs({...}) do
    local s = live(prefix, id)
    keys[index] = s and s.key or ''
  end
  return keys
end

function operations.set_data(prefix, key, data)
  local s = find(prefix, key)
  if not s then return 0 end
  if data == '' then redis.call('HDEL', prefix .. 's:' .. s.id, 'data')
  else redis.call('HSET', prefix .. 's:' .. s.id, 'data', data) end
  return 1
end

function operations.remove(prefix, key, lease)
  local s = find(prefix, key)
  return s and end_session(prefix, s, 'deleted', tonumber(lease), 'deleted') or false
end

function operations.of_user(prefix, user)
  local records = {}
  for index, s in ipairs(live_of(prefix, user)) do records[index] = record(s) end
  return records
end

function operations.remove_user(prefix, user, except, lease)
  local kept, ended = except ~= '' and find(prefix, except), {}
  for _, s in ipairs(live_of(prefix, user)) do
    if not (kept and kept.id == s.id) then
      ended[#ended + 1] = end_session(prefix, s, 'deleted', tonumber(lease), 'ended')
    end
  end
  return ended
end

-- What has been announced is done with.
function operations.acknowledge(prefix, ...)
  for _, id in ipairs({...}) do forget(prefix, id) end
end

-- A process that is still announcing prolongs its lease; with one of no seconds it gives the end to another.
function operations.extend(prefix, lease, ...)
  for _, id in ipairs({...}) do
    redis.call('ZADD', prefix .. 'ended', 'XX', text(now + lease), id)
    extend_ttl(prefix .. 's:' .. id, lease)
  end
end

local multi_group = {}

function multi_group.list(page_size, ...)
  local found = {}
  local cursors = scan(tonumber(page_size), {...}, function(_, s)
    found[#found + 1] = {s.id, whole(s.serial), s.user, s.key}
  end)
  return {cursors, found}
end

function multi_group.count()
  local count = 0
  for _, due in ipairs(KEYS) do count = count + redis.call('ZCOUNT', due, '(' .. text(now), '+inf') end
  return count
end

function multi_group.clear(lease, batch_size, ...)
  local ended = {}
  local cursors = scan(tonumber(batch_size), {...}, function(prefix, s)
    ended[#ended + 1] = end_session(prefix, s, 'deleted', tonumber(lease), 'ended')
  end)
  return {cursors, ended}
end

-- Lets sessions expire, and claims what has ended and is not announced in time, at most `batch_size` of them. Without a
-- listener for ends (a lease of no seconds) or for warnings, the process leaves these to others.
function multi_group.claim(batch_size, lease, warnings)
  local room, ended, expiring, next_at = tonumber(batch_size), {}, {}, math.huge
  lease = tonumber(lease)
  for _, due in ipairs(KEYS) do
    local prefix = prefix_of(due)
    local function due_ids(set, from)
      local ids = room > 0 and redis.call('ZRANGEBYSCORE', prefix .. set, '-inf', from, 'LIMIT', 0, room) or {}
      room = room - #ids
      return ids
    end
    local is_kept = redis.call('EXISTS', prefix .. 'listens') == 1
    if lease > 0 then
      if not is_kept then redis.call('SET', prefix .. 'listens', '') end
      extend_ttl(prefix .. 'listens', 0)
      is_kept = true
    end
    for _, id in ipairs((lease > 0 or not is_kept) and due_ids('ended', text(now)) or {}) do
      local s = read(prefix, id)
      if lease > 0 and s and s.reason then
        redis.call('ZADD', prefix .. 'ended', text(now + lease), id)
        ended[#ended + 1] = record(s)
      elseif s and s.reason then forget(prefix, id)
      else redis.call('ZREM', prefix .. 'ended', id) end
    end
    for _, id in ipairs(due_ids('due', text(now))) do
      local s = read(prefix, id)
      if not s or s.reason then redis.call('ZREM', due, id)
      elseif s.deadline > now then redis.call('ZADD', due, text(s.deadline), id)
      else
        local found = end_session(prefix, s, 'expired', lease, 'ended')
        if lease > 0 then ended[#ended + 1] = found end
      end
    end
    for _, id in ipairs(due_ids('warn', text(now))) do
      redis.call('ZREM', prefix .. 'warn', id)
      local s = live(prefix, id)
      if s then
        notify('expiring', id, s.key, s.deadline - now)
        redis.call('ZADD', prefix .. 'expiring', text(s.deadline), id)
        extend_ttl(prefix .. 'expiring', 0)
      end
    end
    -- Whoever has found that a warning is due, a process with a listener announces it.
    for _, id in ipairs(warnings == '1' and due_ids('expiring', '+inf') or {}) do
      local deadline = tonumber(redis.call('ZSCORE', prefix .. 'expiring', id))
      redis.call('ZREM', prefix .. 'expiring', id)
      local s = live(prefix, id)
      if s and s.deadline == deadline then expiring[#expiring + 1] = record(s) end
    end
    for _, set in ipairs({'due', 'warn', lease > 0 and 'ended' or nil}) do
      local first = redis.call('ZRANGE', prefix .. set, 0, 0, 'WITHSCORES')
      if first[2] then next_at = math.min(next_at, tonumber(first[2])) end
    end
  end
  return {ended, expiring, text(next_at - now)}
end

if multi_group[ARGV[1]] then return multi_group[ARGV[1]](unpack(ARGV, 3)) end
return operations[ARGV[1]](prefix_of(KEYS[1]), unpack(ARGV, 3))
